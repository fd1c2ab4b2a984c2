"""Figures of fitted objects."""
