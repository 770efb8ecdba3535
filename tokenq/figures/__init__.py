"""The figures of the demonstration, each with its verdict and what exact worlds say."""
