"""What is written in a round: responses to prompts, or episodes with an environment."""
