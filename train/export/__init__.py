"""Finished checkpoints: restored, sampled, evaluated, exported."""
