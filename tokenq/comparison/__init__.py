"""Trainings on the same data, side by side."""
