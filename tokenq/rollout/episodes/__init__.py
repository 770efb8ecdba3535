"""Episodes with environments: how they are asked for, how they are played, what they come to."""
