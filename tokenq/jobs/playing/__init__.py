"""`tokenq.play`: episodes with an environment, in memory or into a file that a kill does not lose."""
