"""Text to token store: read, filter, deduplicate, split, tokenise."""
