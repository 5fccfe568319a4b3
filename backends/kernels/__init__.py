"""Lowering kernels that NPU and PNM share: they differ in how a function becomes a command (`machine.py`)."""
