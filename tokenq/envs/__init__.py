"""Environments: what a model acts in, turn by turn; text in, text out, and a reward."""
