"""The page of an online run: its curves, its table and its examples."""
