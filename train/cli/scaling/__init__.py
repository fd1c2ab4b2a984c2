"""Commands about scaling laws: they read tables of runs, anyone's, and train nothing."""
