"""Episodes to look at: as a table, and as a page of conversations."""
