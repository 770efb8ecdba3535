"""The table of all claims, in the order in which docs/theory.md tells them."""

from tokenq.verify import (
    decoding,
    environment,
    equivalence,
    gradients,
    images,
    learning,
    objectives,
    online,
    optimality,
    optimism,
    readouts,
    values,
)
from tokenq.verify.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *optimality.CLAIMS,
    *equivalence.CLAIMS,
    *learning.CLAIMS,
    *objectives.CLAIMS,
    *online.CLAIMS,
    *optimism.CLAIMS,
    *values.CLAIMS,
    *gradients.CLAIMS,
    *readouts.CLAIMS,
    *decoding.CLAIMS,
    *environment.CLAIMS,
    *images.CLAIMS,
)
