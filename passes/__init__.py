"""Transformations of graphs: the pass manager, and one file for each pass."""
