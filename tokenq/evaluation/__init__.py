"""Tasks: what traces and answers are worth, with intervals and baselines."""
