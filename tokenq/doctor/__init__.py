"""Is a training healthy: checks of what it recorded, of its rows and of its weights."""
