"""Worlds with a known answer, and models small enough to be built in code: what tests and the demonstration run on."""
