"""Data of unknown number: rows that come one after the other, and the groups of tokens that they give."""
