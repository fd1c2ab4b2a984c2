"""Data: text -> documents -> token store -> batches that are pure functions of (recipe, seed,
index).
"""
