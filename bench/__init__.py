"""The benchmark: each stage against the plain loop that a notebook would have and the best peer installed."""
