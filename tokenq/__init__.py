"""tokenq: train language models from preferences and read them token by token as Q-functions."""

__version__ = "0.1.0"
