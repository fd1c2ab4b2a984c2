"""The studies: one folder a question, from points to a page."""
