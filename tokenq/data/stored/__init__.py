"""Tokenised data that lie on the disk and are read where they are needed."""
