"""Training: what a run is asked for (`config`), the loop, checkpoints and metrics. Models come in as protocols."""
