"""The web app: a pair of models to write with, to point at, to branch from and to compare, served to a browser."""
