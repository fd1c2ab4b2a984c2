"""Fits of a law to points, and how sure they are."""
