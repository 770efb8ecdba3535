"""Claims of the literature about language models as Q-functions, each checked in worlds of the right kind."""
