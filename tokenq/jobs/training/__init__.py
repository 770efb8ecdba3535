"""The parts of a training: its data, models and reference, the machine it runs on, and its folder."""
