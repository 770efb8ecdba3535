"""Every threshold of the doctor from both sides: what is just below it is no finding, what is just above is one."""

import math
from dataclasses import replace

import pytest
from recorded_runs import (
    BETA,
    FACTS,
    LENGTH,
    STEPS,
    SUMMARY,
    dpo_line,
    found,
    healthy_dpo,
    healthy_sft,
    with_config,
    with_metric,
    with_summary,
    written,
)

from tokenq.runs.facts import Samples, Scored
from tokenq.runs.record import RunRecord


def starting(**metrics):
    record = healthy_dpo()
    first = {**record.evals[0], **{f"eval_{name.replace('_', '/')}": value for name, value in metrics.items()}}
    return replace(record, evals=(first, *record.evals[1:]))


def ending(**metrics):
    record = healthy_dpo()
    last = {**record.evals[-1], **{f"eval_{name.replace('_', '/')}": value for name, value in metrics.items()}}
    return replace(record, evals=(*record.evals[:-1], last))


def far_away(a_token):
    """Return a run whose margin grows to 8 at a KL of so many nats per token: (chosen + rejected)/2 = −0.1 · 100 KL."""
    middle = -BETA * LENGTH * a_token
    return healthy_dpo(chosen=middle + 4, rejected=middle - 4)


def moved(a_token):
    return healthy_dpo(chosen=-BETA * LENGTH * a_token / 2, rejected=-BETA * LENGTH * a_token, loss_gain=0.001)


def demonstrations_changed(share):
    record = healthy_sft()
    return replace(record, evals=(record.evals[0], {**record.evals[1], "eval_loss": 2.0 * (1 - share)}))


def many_held_out(accuracy, pairs):
    record = ending(**{"rewards_accuracies": accuracy})
    told = {**record.provenance["eval_data"], "summary": {**SUMMARY, "pairs": pairs}}
    return replace(record, provenance={**record.provenance, "eval_data": told})


def ended_at(factor):
    return with_metric(healthy_dpo(), "loss", lambda step, old: old if step < 20 else factor * math.log(2))


def clipped_in(share):
    return with_metric(healthy_dpo(), "grad_norm", lambda step, _: 2.0 if step <= share * STEPS else 0.5)


def cost(**values):
    record = healthy_dpo()
    for name, value in values.items():
        record = with_metric(record, name, value)
    return record


def late(factor):
    return lambda step, old: old * factor if step > 20 else old


def with_facts(**changes):
    return replace(healthy_dpo(), data=replace(FACTS, **changes))


def held_out_seen(rows, prompts):
    return replace(healthy_dpo(), held_out=replace(FACTS, sha256="e" * 64, seen_rows=rows, seen_prompts=prompts))


def sampled(policy):
    return replace(healthy_dpo(), samples=Samples(128, policy, written(20, 50, ended=0.9, loops=0.05), kl=5.0))


def scored(correlation, pairs):
    values = {name: value for name, value in dpo_line(STEPS).items() if name != "loss"}
    return RunRecord("policy", {"loss": "dpo"}, data=FACTS, scored=Scored(values, pairs, correlation))


@pytest.mark.parametrize(
    ("name", "below", "above"),
    [
        ("start-off-reference", starting(rewards_chosen=-0.07), starting(rewards_chosen=-0.15)),
        ("start-off-reference", starting(loss=0.699), starting(loss=0.712)),
        ("chosen-collapses", healthy_dpo(chosen=-0.8, rejected=-1.2), healthy_dpo(chosen=-1.3, rejected=-2.0)),
        ("kl-explodes", far_away(0.07), far_away(0.15)),
        ("over-optimised", ending(loss=0.593 * 1.03), ending(loss=0.593 * 1.08)),
        ("over-optimised", many_held_out(0.69, 20_000), many_held_out(0.66, 20_000)),
        ("nothing-moved", moved(0.002), moved(0.0006)),
        ("nothing-moved", demonstrations_changed(0.02), demonstrations_changed(0.006)),
        ("worse-than-untrained", ended_at(1.03), ended_at(1.1)),
        (
            "no-warm-up",
            *(with_config(with_metric(healthy_dpo(), "loss", {3: x}), warmup_ratio=0.0) for x in (0.9, 1.2)),
        ),
        ("always-clipped", clipped_in(0.8), clipped_in(0.975)),
        ("costly", cost(padding_share=lambda *_: 0.1), cost(padding_share=lambda *_: 0.3)),
        ("costly", cost(tokens_per_second=late(0.7)), cost(tokens_per_second=late(0.3))),
        (
            "costly",
            cost(peak_memory_gb=late(1.1)),
            cost(peak_memory_gb=lambda step, old: old * (1.5 if step > 30 else 1)),
        ),
        ("length-tells", with_facts(longer=280), with_facts(longer=310)),
        ("data-repeats-itself", with_facts(loops=24), with_facts(loops=60)),
        ("pairs-nearly-equal", with_facts(near_equal=150), with_facts(near_equal=250)),
        (
            "rows-unlike-the-model",
            with_facts(remarks={"x": 100}, remarked=256),
            with_facts(remarks={"x": 150}, remarked=256),
        ),
        ("length-drift", sampled(written(20, 65)), sampled(written(20, 80))),
        ("does-not-stop", sampled(written(20, 50, ended=0.8)), sampled(written(20, 50, ended=0.65))),
        ("repeats-itself", sampled(written(20, 50, loops=0.1)), sampled(written(20, 50, loops=0.2))),
        ("reward-is-length", scored(0.4, 60), scored(0.6, 60)),
        ("reward-is-length", scored(0.6, 40), scored(0.6, 60)),
    ],
)
def test_a_threshold_has_two_sides(name, below, above):
    assert name not in found(below)
    assert name in found(above)


@pytest.mark.parametrize(
    ("name", "note", "warning"),
    [
        ("accuracy-at-chance", many_held_out(0.52, 300), many_held_out(0.52, 700)),
        ("rows-lost", *(with_summary(healthy_dpo(), dropped={"empty prompt": n}) for n in (30, 60))),
        ("boundary-merges", *(with_summary(healthy_dpo(), boundary_merges=n) for n in (30, 60))),
        (
            "chosen-equals-rejected",
            *(with_summary(healthy_dpo(), dropped={"chosen equals rejected": n}) for n in (3, 6)),
        ),
        ("duplicate-rows", with_facts(duplicates=30), with_facts(duplicates=60)),
        ("contradictory-pairs", with_facts(reversed_pairs=3), with_facts(reversed_pairs=6)),
        ("held-out-leaks", held_out_seen(3, 3), held_out_seen(6, 6)),
        ("held-out-leaks", held_out_seen(0, 30), held_out_seen(0, 60)),
        ("responses-cut", *(with_summary(healthy_dpo(), truncated_responses=n) for n in (30, 60))),
    ],
)
def test_a_finding_gets_worse_with_its_share(name, note, warning):
    assert found(note)[name].severity == "note"
    assert found(warning)[name].severity == "warning"


def test_a_run_of_a_few_steps_is_asked_for_no_trend():
    record = moved(0.0001)
    assert "nothing-moved" not in found(replace(record, steps=record.steps[:8]))


def test_a_large_margin_that_stands_still_costs_what_it_costs():
    """A margin of 8 throughout at 0.15 nats per token: far, and no longer on its way."""
    record = far_away(0.15)
    assert "kl-explodes" not in found(with_metric(record, "rewards/margins", lambda *_: 8.0))
