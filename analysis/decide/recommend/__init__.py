"""Which ladder to train for a target and a wanted error."""
