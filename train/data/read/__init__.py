"""Token store to batches."""
