"""Endpoints that read given texts: traces, rankings, scores, rewards, and the tokens that texts are made of."""
