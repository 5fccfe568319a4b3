"""The link between devices: its commands and their time."""
