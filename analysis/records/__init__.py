"""Records of runs to tables."""
