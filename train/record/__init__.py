"""What a run leaves behind: metrics, checkpoints, clocks, throughput."""
