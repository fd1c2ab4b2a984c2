"""The library behind the configs: run specs, how a config becomes them, and the names in a
record.
"""
