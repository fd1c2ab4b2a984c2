"""Attention: masks, and implementations of one function in a table."""
