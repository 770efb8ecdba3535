"""Answers searched for over a `Stepper`: a network pair or a tabular world, this room cannot tell which."""
