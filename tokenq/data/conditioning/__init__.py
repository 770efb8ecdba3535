"""Policies that are asked for attributes: the control string of a prompt, and who says which levels stand in it."""
