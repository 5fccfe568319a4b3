"""The copy engines between memory and the on-chip buffer."""
