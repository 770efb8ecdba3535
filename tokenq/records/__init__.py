"""Things at rest: examples in text and in tokens, traces, results of searches, and how their files are checked."""
