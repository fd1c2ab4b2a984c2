"""What the proxy-transfer study measures: agreement of rankings, flips, alignment, and their
intervals.
"""

from typing import Any

Row = dict[str, Any]  # of results.json: column -> value
