"""Which rows of preference data to train on: rules, what they go by, and pairs made of solutions in steps."""
