"""What a round learns from: pairs of its responses, or an advantage for every token of them."""
