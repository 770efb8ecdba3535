"""Metrics of losses: what a training shows beside them."""
