"""What stands before the endpoints: who may ask, from where, how much at once, and what is counted and logged of it."""
