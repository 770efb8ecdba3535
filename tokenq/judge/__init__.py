"""Judges of responses: true answers, verifiers, reward models, and models that are asked."""
