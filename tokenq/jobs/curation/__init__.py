"""Jobs on data: audits, and what they are made of."""
