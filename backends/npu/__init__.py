"""The NPU: a weight-stationary systolic array and a vector unit over a scratchpad."""
