"""Stretches of responses that losses and traces tell apart: the steps of a solution, segments with a strength each."""
