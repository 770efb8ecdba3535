"""The responses of a round, read again: whose weights wrote them, and in which tokens their prompts stood."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tokenq.core.packing import pack
from tokenq.data.prompts import Prompt, encode_prompts
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.models.forward.policy import no_grad
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_model
from tokenq.records.rollouts import Rollout
from tokenq.rollout.learning import by_prefix, group_of
from tokenq.rundir import RunDir
from tokenq.runs.facts import RolloutFacts
from tokenq.runs.record import RunRecord

_READ_AGAIN = 64
"""Responses whose log-probs are computed again."""


def rollout_facts(record: RunRecord, folder: RunDir, prompts: Sequence[Prompt], tokenizer: Any) -> RolloutFacts:
    """Return what the responses of the last round say of the weights and the tokens that they were written with.

    Args:
        record: the run, with rounds.
        folder: where it is.
        prompts: the run's prompts.
        tokenizer: the run's.

    Raises:
        UserError: the round is no longer there.
    """
    last = record.rounds[-1]
    number, began = int(last["round"]), int(last["step"])
    rows = _rollouts(folder, number)
    own = [one for one in rows if one.writer == "policy"]
    stale = [began - one.version for one in own if one.version < began]
    written = {one.id: one.prompt_ids for one in rows}
    asked = {one.id: one.condition for one in rows}
    known = [replace(prompt, condition=asked[prompt.id]) for prompt in prompts if prompt.id in written]
    encoded = zip(known, encode_prompts(known, tokenizer), strict=True)
    other = [prompt.id for prompt, ids in encoded if ids != written[prompt.id]]
    return RolloutFacts(
        number, len(own), len(stale), max(stale, default=0), len(known), len(other), other[0] if other else ""
    )


def read_again(
    facts: RolloutFacts, record: RunRecord, folder: RunDir, start: ModelSpec, budget: tuple[str, int]
) -> RolloutFacts:
    """Return the facts with log-probs of the last round whose weights are there, computed again.

    Args:
        facts: what is known.
        record: the run.
        folder: where it is.
        start: the model that it began from.
        budget: how batches are formed, and the most tokens of a sequence.

    Raises:
        UserError: no weights of any round are there, or they cannot be loaded.
    """
    for line in reversed(record.rounds):
        number, version = int(line["round"]), int(line["step"])
        place = folder.checkpoint(version)
        if version and version not in folder.steps():
            continue
        spec = replace(start, path=str(place), adapter=None, revision=None) if version else start
        rows = [one for one in _rollouts(folder, number) if one.writer == "policy" and one.logps_of == "model"]
        rows = [one for one in rows if one.version == version][:_READ_AGAIN]
        if not rows:
            continue
        named = f"checkpoint {version}" if version else "the model at the start"
        gap = _gap(rows, spec, *budget)
        return replace(facts, read_again=len(rows), gap=gap, weights=f"{named} (round {number})")
    raise UserError("no weights of a round are there", "Keep checkpoints: --keep-checkpoints 2.")


def _gap(rows: Sequence[Rollout], spec: ModelSpec, attention: str, longest: int) -> float:
    """Return the mean absolute difference of the log-probs of tokens, in nats."""
    opened = open_model(spec, attention, longest)
    scorer, device = no_grad(opened.lm), next(opened.lm.parameters()).device
    gaps: list[float] = []
    for some in by_prefix(rows):
        now = scorer(pack([group_of(some)]).to(device)).float().tolist()
        stored = [value for one in some for value in one.written(one.logps)]
        gaps += [abs(value - other) for value, other in zip(now, stored, strict=True)]
    return sum(gaps) / len(gaps)


def _rollouts(folder: RunDir, number: int) -> list[Rollout]:
    return [Rollout.from_dict(row) for row in JsonLines(folder.round(number) / "rollouts.jsonl").read()]
