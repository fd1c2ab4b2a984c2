"""Which learning rate is best, how it drifts with scale, and what a wrong one costs."""
