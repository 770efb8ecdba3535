"""Faults of data sets: rows that say the same or the opposite, shortcuts, cut responses, labels that are wrong."""
