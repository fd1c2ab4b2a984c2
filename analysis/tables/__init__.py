"""Any table of runs to clean points."""
