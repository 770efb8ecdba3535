"""Conversations: turns as data sets spell them, their text by a chat template, and where in it each of them stands."""
