"""Commands on preference data: their table, and what they show."""
