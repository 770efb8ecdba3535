"""Numbers with intervals: the bootstrap, win rates, and the arithmetic of published leaderboards."""
