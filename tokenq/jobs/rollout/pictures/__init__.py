"""Rounds of an image model: it draws, a program judges, and it learns from pairs or by policy gradients."""
