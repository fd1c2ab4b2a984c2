"""The training loop: from a batch of runs to their finished records."""
