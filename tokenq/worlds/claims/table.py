"""The table of all claims, in the order in which docs/theory.md tells them."""

from tokenq.worlds.claims import decoding, environment, equivalence, learning, objectives, optimality, readouts, values
from tokenq.worlds.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *optimality.CLAIMS,
    *equivalence.CLAIMS,
    *learning.CLAIMS,
    *objectives.CLAIMS,
    *values.CLAIMS,
    *readouts.CLAIMS,
    *decoding.CLAIMS,
    *environment.CLAIMS,
)
