"""Models read token by token: traces, the stretches of a text, pairs, and models with different tokenizers."""
