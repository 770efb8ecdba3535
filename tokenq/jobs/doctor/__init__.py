"""What an examination gathers before the checks judge it: rows, weights, and what models say and write."""
