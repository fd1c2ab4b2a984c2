"""Back-tests: what a forecast would have said of runs that exist."""
