"""Copies of the metrics for dashboards."""
