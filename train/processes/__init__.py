"""The processes of one job: their group, who is alive, preemption."""
