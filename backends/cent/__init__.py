"""CENT's published mapping (ASPLOS 2025): its layout, its streams and its accounting, as a strategy by name."""
