"""Rows in the layouts of the field to prompts, responses and what was said of them."""
