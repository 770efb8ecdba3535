"""Pairs scored by the models of an examination, and the responses that they write."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenq.data.prompts import Prompt
from tokenq.doctor.config import DoctorConfig
from tokenq.doctor.data_checks import loops
from tokenq.jobs.inputs import Options
from tokenq.jobs.load import open_reader
from tokenq.jobs.searcher import load_searcher
from tokenq.listener import Event, Listener
from tokenq.models.load import ModelSpec
from tokenq.models.run_models import RunModels
from tokenq.records.examples import Example
from tokenq.records.results import SearchResult
from tokenq.records.traces import TokenTrace
from tokenq.runs.facts import Samples, Scored, Written
from tokenq.score.health import pair_warnings
from tokenq.search.config import SearchConfig

_LIMIT = 512
"""Maximum number of tokens in a sample where the data would ask for more."""


def score_pairs(
    config: DoctorConfig,
    models: tuple[ModelSpec, ModelSpec | None],
    examples: Sequence[Example],
    listener: Listener,
) -> tuple[Scored, dict[str, Any], dict[str, Any]]:
    """Score pairs with policy and reference, and return the scores and both identities.

    Args:
        config: how they are read.
        models: policy and reference; None for an adapter's base.
        examples: the pairs.
        listener: told what cannot be done as asked.
    """
    asked = {name: value for name, value in vars(config).items() if name in Options.__dataclass_fields__}
    options = Options(**asked | {"beta": config.beta or 0.1, "top_k": 0, "levels": ()})
    reader = open_reader(*models, options, lambda text: listener.say(f"warning: {text}"))
    rows, _ = reader.rows(examples, "drop")
    pairs = []
    for done, pair in enumerate(reader.traces(rows), 1):
        pairs.append(pair)
        listener(Event("scoring", done, len(rows)))
    return summed_up(pairs), *reader.identities


def summed_up(pairs: Sequence[Sequence[TokenTrace]]) -> Scored:
    """Return the metrics of scored pairs under the names that training gives them.

    Args:
        pairs: (chosen, rejected) traces, at least one pair.
    """
    totals = [[trace.totals for trace in pair] for pair in pairs]
    rewards = np.array([[one.implicit_reward for one in pair] for pair in totals])
    logps = np.array([[one.logp for one in pair] for pair in totals])
    lengths = np.array([[one.tokens for one in pair] for pair in totals], np.float64)
    margins, longer = rewards[:, 0] - rewards[:, 1], lengths[:, 0] - lengths[:, 1]
    values = {"rewards/accuracies": float((margins > 0).mean()), "rewards/margins": float(margins.mean())}
    for place, side in enumerate(("chosen", "rejected")):
        values[f"rewards/{side}"] = float(rewards[:, place].mean())
        values[f"logps/{side}"] = float(logps[:, place].mean())
        values[f"response_length/{side}"] = float(lengths[:, place].mean())
    values["kl"] = float(-rewards.mean() / pairs[0][0].beta)
    spread = margins.std() * longer.std()
    covariance = ((margins - margins.mean()) * (longer - longer.mean())).mean()
    correlation = float(covariance / spread) if spread > 0 else float("nan")
    warnings = pair_warnings([trace for pair in pairs for trace in pair])
    return Scored(values, len(pairs), correlation, tuple(warnings))


def write_samples(
    config: DoctorConfig,
    models: RunModels,
    examples: Sequence[Example],
    summary: Mapping[str, Any],
    listener: Listener,
) -> Samples:
    """Sample one response to each of the first prompts from policy and reference, at temperature 1.

    Args:
        config: how many prompts, and how models are loaded.
        models: the policy that is examined, and what it is compared with.
        examples: rows whose prompts are answered.
        summary: account of the data, for the length of its responses.
        listener: told what is being done.
    """
    p99 = max(
        (int(counts["p99"]) for part, counts in summary.get("tokens", {}).items() if part != "prompt"), default=_LIMIT
    )
    limit = config.max_new_tokens or min(p99, _LIMIT)
    prompts = [
        Prompt(str(number), example.prompt, example.where, example.context)
        for number, example in enumerate(examples[: config.answer_prompts], 1)
    ]

    def write(asked: RunModels) -> list[SearchResult]:
        config_of = SearchConfig(
            method="sample", n=1, max_new_tokens=limit, seed=config.seed, attention=config.attention
        )
        searcher = load_searcher(config_of, say=lambda text: listener.say(f"warning: {text}"), models=asked)
        return list(searcher.results(prompts))

    listener.say(f"writing {len(prompts)} responses of up to {limit} tokens with each model")
    own = write(models)
    drawn = [result.candidates[0] for result in own]
    if models.reference is None:
        return Samples(limit, _written(own))
    gaps = [sum(one.logps) - sum(one.ref_logps) for one in drawn if one.ref_logps is not None]
    return Samples(
        limit, _written(own), _written(write(RunModels(models.reference, None, None))), sum(gaps) / len(gaps)
    )


def _written(results: Sequence[SearchResult]) -> Written:
    drawn = [result.candidates[0] for result in results]
    return Written(
        tuple(len(one.token_ids) for one in drawn),
        tuple(one.terminal for one in drawn),
        tuple(loops(np.array(one.token_ids, np.int32)) for one in drawn),
    )
