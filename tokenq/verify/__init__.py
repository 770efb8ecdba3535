"""What the literature claims about language models as Q-functions, each claim checked in worlds of the right kind."""
