"""Imports every module that declares kernels."""

from pimc.backends.kernels import attention, elementwise, indexing, levels, movement, normalization, reductions

__all__ = ["attention", "elementwise", "indexing", "levels", "movement", "normalization", "reductions"]
