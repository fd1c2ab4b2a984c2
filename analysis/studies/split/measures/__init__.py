"""What the study of the split measures: one topic a file.

A `Row` is one line of a table of results: plain values under their names.
"""

from typing import Any

Row = dict[str, Any]
