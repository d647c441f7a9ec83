"""One thin script a stage: read parameters and inputs, call one function of medqa, write outputs."""
