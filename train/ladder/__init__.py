"""A whole ladder: what each run costs, which runs train together, in which order."""
