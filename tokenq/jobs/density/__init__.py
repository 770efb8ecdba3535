"""Chains of density written: articles in, summaries of one length that say more at each step out."""
