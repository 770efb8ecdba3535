"""Preference data looked at as data: what is wrong with it, and what of it is worth training on."""
