"""Conversations to text by a model's chat template, and where in that text each turn of the assistant stands."""
