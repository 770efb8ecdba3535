"""What rounds end in: pairs, advantages or weights, and what goes with each."""
