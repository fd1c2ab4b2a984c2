"""Measurements of checkpoints and data that are no part of training."""
