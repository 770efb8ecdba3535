"""Training: settings, sources of examples, the loop, checkpoints and metrics. Models come in as protocols."""
