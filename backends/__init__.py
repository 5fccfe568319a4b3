"""Machines: what they are (targets), the commands they take, and how ops become streams of those commands."""
