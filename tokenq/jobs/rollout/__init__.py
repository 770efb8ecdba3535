"""An online run: the policy in training writes, a judge says what that is worth, and the loop learns from the pairs."""
