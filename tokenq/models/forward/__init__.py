"""The shared forward: packed rows and growing branches through a causal LM, proven against its plain forward."""
