"""The sub-commands of `medqa`: each module has `add` (its options) and `run` (returns the exit code)."""
