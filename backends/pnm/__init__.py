"""PNM: units beside the memory controllers, over a shared buffer."""
