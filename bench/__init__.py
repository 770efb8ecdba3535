"""Benchmarks: what training costs, measured beside TRL. Never a timed test, and no part of the package."""
