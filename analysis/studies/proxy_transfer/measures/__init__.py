"""What the proxy-transfer study measures: agreement of rankings, flips, alignment, and their
intervals.
"""
