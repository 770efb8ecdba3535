"""What is measured beside a run's own files: counts of its data, its models today, what they say and write now.

Plain numbers, each of which may be missing from an examination. Nothing is measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DataFacts:
    """What was counted in a data set, in tokens.

    Attributes:
        summary: its account (`DataSummary` as plain data).
        sha256: over the tokens of every row, as provenance has it.
        duplicates: groups that an earlier row holds too.
        reversed_pairs: pairs whose (rejected, chosen) another row has as (chosen, rejected).
        near_equal: pairs that differ in less than a tenth of their tokens, in one place.
        longer: pairs whose chosen response is the longer one.
        unequal: pairs of different lengths.
        long_responses: responses long enough to be judged for loops.
        loops: those of them that say the same again and again.
        remarks: what is to be said of rows (`tokenq.score.health.row_warnings`), with how many of `remarked` it holds.
        remarked: rows that were asked.
        seen_rows: of held-out data, groups that the training data holds too.
        seen_prompts: of held-out data, groups whose prompt the training data holds too.
    """

    summary: Mapping[str, Any]
    sha256: str
    duplicates: int
    reversed_pairs: int
    near_equal: int
    longer: int
    unequal: int
    long_responses: int
    loops: int
    remarks: Mapping[str, int] = field(default_factory=dict)
    remarked: int = 0
    seen_rows: int = 0
    seen_prompts: int = 0


@dataclass(frozen=True)
class ModelNow:
    """A model of the run as it is today.

    Attributes:
        role: "reference", or "model" for what training began from.
        path: where it was, and is.
        recorded: the hash of its weights in provenance.
        now: that of what is there now.
        doubt: why the hash may come out differently for the same files; empty where it must be the same.
        newer: whether its files were written after the run began (copying them counts, as far as dates go).
    """

    role: str
    path: str
    recorded: str
    now: str
    doubt: str = ""
    newer: bool = False


@dataclass(frozen=True)
class Moved:
    """How the weights of the policy compare with those that training began from, number by number.

    Attributes:
        weights: numbers that stand in both.
        moved: those that are not the same.
        within_reach: those that one update of the largest learning rate could have moved in the type in which they
            were trained: half the distance to their neighbour is no more than it.
    """

    weights: int
    moved: int
    within_reach: int


@dataclass(frozen=True)
class Scored:
    """What two models say of pairs now.

    Attributes:
        values: metrics under the names of metrics.jsonl.
        pairs: how many were scored.
        length_correlation: Pearson's correlation of reward margin and difference of lengths; NaN for too few pairs.
        warnings: what is wrong with this pair of models (`tokenq.score.health.pair_warnings`).
    """

    values: Mapping[str, float]
    pairs: int
    length_correlation: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """Responses that a model wrote, one a prompt.

    Attributes:
        lengths: in tokens.
        ended: whether each came to EOS within the limit.
        loops: whether each says the same again and again.
    """

    lengths: tuple[int, ...]
    ended: tuple[bool, ...]
    loops: tuple[bool, ...]


@dataclass(frozen=True)
class Samples:
    """What policy and reference write to the same prompts, drawn at temperature 1.

    Attributes:
        limit: most tokens of a response.
        policy: by the policy.
        reference: by the reference, None where there is none.
        kl: mean of Σ_t (log π − log π_ref) over the policy's responses, in nats: an estimate of KL(π‖π_ref).
    """

    limit: int
    policy: Written
    reference: Written | None = None
    kl: float | None = None


@dataclass(frozen=True)
class RolloutFacts:
    """What was found of the responses of a round, read again.

    Attributes:
        number: of the round.
        responses: that the policy wrote.
        stale: of them, those of weights that are older than the round.
        lag: updates that the oldest of these lag behind.
        prompts: that were written to.
        other_prompts: of them, those that the tokenizer encodes otherwise now.
        first_other: the name of the first of these.
        read_again: responses whose log-probs were computed again.
        gap: mean |Δ log π| of a token against the stored one, None where the weights are gone.
        weights: what computed them.
    """

    number: int
    responses: int
    stale: int = 0
    lag: int = 0
    prompts: int = 0
    other_prompts: int = 0
    first_other: str = ""
    read_again: int = 0
    gap: float | None = None
    weights: str = ""
