"""The `stepladder` command; the only part of train/ that imports the analysis, when a command
runs.
"""
