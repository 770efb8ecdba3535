"""How much a summary says for its length: entities of texts, what a chain of denser summaries holds, and how to ask."""
