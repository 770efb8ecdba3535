"""Judges trained models: preference accuracy, error localisation, win rates, and what is wrong with a run."""
