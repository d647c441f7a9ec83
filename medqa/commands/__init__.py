"""The sub-commands of `medqa`: each module has `add` (its options) and `run` (the work; returns the exit
code).
"""
