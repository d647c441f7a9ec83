"""Benchmarks: public multiple-choice questions, through lm-eval (EleutherAI's evaluation harness)."""
