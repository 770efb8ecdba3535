"""Runs written by hand, healthy ones and the same made sick: what `tokenq train` would have recorded."""

import math
from dataclasses import replace

from tokenq.doctor.doctor import diagnose
from tokenq.runs.facts import DataFacts, Written
from tokenq.runs.record import RunRecord

STEPS = 40
BETA = 0.1
LENGTH = 100.0
"""Tokens of every response, so that a nat a token is a hundred a response."""

SUMMARY = {
    "rows": 400,
    "groups": 400,
    "pairs": 400,
    "responses": 800,
    "dropped": {"tied ratings": 200},
    "truncated_prompts": 0,
    "truncated_responses": 0,
    "boundary_merges": 0,
    "template_rewrites": 0,
}
CONFIG = {
    "model": "runs/sft/policy",
    "reference": None,
    "loss": "dpo",
    "beta": BETA,
    "batch_size": 10,
    "epochs": 1.0,
    "max_steps": None,
    "max_grad_norm": 1.0,
    "warmup_ratio": 0.1,
    "max_length": 512,
}
FACTS = DataFacts(
    summary=SUMMARY,
    sha256="d" * 64,
    duplicates=0,
    reversed_pairs=0,
    near_equal=0,
    longer=210,
    unequal=390,
    long_responses=800,
    loops=0,
)


def dpo_line(step, *, chosen=-0.3, rejected=-0.9, loss_gain=0.2, accuracy=0.7):
    """Return the metrics after `step` of `STEPS` steps that end with these rewards; all moves in straight lines."""
    done = step / STEPS
    chosen, rejected = chosen * done, rejected * done
    return {
        "loss": math.log(2) - loss_gain * done,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": accuracy if step else 0.0,
        "logps/chosen": -90 + chosen / BETA,
        "logps/rejected": -92 + rejected / BETA,
        "kl": -(chosen + rejected) / (2 * BETA),
        "response_length/chosen": LENGTH,
        "response_length/rejected": LENGTH,
    }


def step_line(step, metrics):
    """Return a line of an optimiser step: measured before its update, with gradient and cost."""
    cost = {"tokens_per_second": 1000.0, "padding_share": 0.0, "peak_memory_gb": 2.0, "seconds": 1.0}
    rate = 1e-6 * min(1.0, (step - 1) / 4)
    return {"step": step, "epoch": step / STEPS, "learning_rate": rate, "grad_norm": 0.8, **metrics, **cost}


def eval_line(step, metrics):
    return {"step": step, "epoch": step / STEPS, **{f"eval_{name}": value for name, value in metrics.items()}}


def healthy_dpo(**end):
    """Return a DPO run that learnt: both log-probs fall a little, the rejected one more, held-out data agrees.

    Args:
        end: where it ends, as in `dpo_line`.
    """
    return RunRecord(
        path="runs/dpo",
        config=CONFIG,
        provenance={
            "model": {"path": "runs/sft/policy", "weights": "a" * 64},
            "reference": {"path": "runs/sft/policy", "weights": "a" * 64},
            "data": {"sha256": "d" * 64, "summary": SUMMARY},
            "eval_data": {"sha256": "e" * 64, "summary": {**SUMMARY, "groups": 400}},
        },
        steps=tuple(step_line(step, dpo_line(step - 1, **end)) for step in range(1, STEPS + 1)),
        evals=tuple(eval_line(step, dpo_line(step, **end)) for step in (0, 20, 40)),
        finished=True,
        data=FACTS,
        held_out=replace(FACTS, sha256="e" * 64),
    )


def healthy_sft():
    """Return a run of SFT whose loss falls from 2 to 1 nats per token, on held-out data too."""
    config = {**CONFIG, "loss": "sft", "beta": None}

    def line(step):
        loss = 2.0 - step / STEPS
        return {"loss": loss, "logps/responses": -loss * LENGTH, "response_length": LENGTH}

    return replace(
        healthy_dpo(),
        path="runs/sft",
        config=config,
        provenance={**healthy_dpo().provenance, "reference": None},
        steps=tuple(step_line(step, line(step - 1)) for step in range(1, STEPS + 1)),
        evals=tuple(eval_line(step, line(step)) for step in (0, 40)),
    )


def with_metric(record, name, values):
    """Return the run with a metric of its steps replaced: {step: value}, or (step, old) → value."""
    change = (lambda step, old: values.get(step, old)) if isinstance(values, dict) else values
    return replace(record, steps=tuple({**row, name: change(row["step"], row[name])} for row in record.steps))


def with_config(record, **changes):
    return replace(record, config={**record.config, **changes})


def with_summary(record, **changes):
    """Return the run with another account of its training data, and without its rows."""
    data = {**record.provenance["data"], "summary": {**SUMMARY, **changes}}
    return replace(record, data=None, provenance={**record.provenance, "data": data})


def found(record):
    """Return the findings by name."""
    return {finding.name: finding for finding in diagnose(record)}


def written(count, length, *, ended=1.0, loops=0.0):
    """Return responses around a length; the first of them end, or go in circles."""
    lengths = tuple(length + place % 3 for place in range(count))
    return Written(
        lengths,
        tuple(place < ended * count for place in range(count)),
        tuple(place < loops * count for place in range(count)),
    )
