"""Executes programs: for time (`time.py`) and for values (`values.py`)."""
