"""Decisions from fits: allocation, isoFLOP optima, envelopes."""
