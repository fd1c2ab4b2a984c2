"""Ladders for real hardware; `configs/demo.py` is the one for a laptop."""
