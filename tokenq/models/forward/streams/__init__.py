"""Texts of one model that come and go: all of them take their steps together, and prompts are read beside them."""
