"""Sampling at test time: pass@k."""
