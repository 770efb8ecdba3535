"""Do rewards go by what is said, or by length? Chains of summaries of one length, and the density of answers."""
