"""Rounds of an online run: who writes, what came back, what it was worth, which pairs follow, what is learnt."""
