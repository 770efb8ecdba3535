"""The held-out responses one by one: their numbers, which is chosen and rejected, and what a resumed run keeps."""

import json
from dataclasses import replace

import pytest
import torch
from small_runs import groups_for, random_pairs, small_policy, train_small

from tokenq.core.packing import pack
from tokenq.rundir import RunDir
from tokenq.training.evaluation import write_held_out

HELD_OUT = random_pairs(5, seed=7)
OPTIONS = {"tokens_per_batch": 40, "max_steps": 4}


def rows_in(folder):
    return [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]


def test_every_response_has_its_log_probs_at_the_start_and_at_the_end(tmp_path):
    policy, _ = train_small(tmp_path, held_out=HELD_OUT, **OPTIONS)
    batch = pack(HELD_OUT)
    with torch.no_grad():
        end, start = (batch.actions.pad(model(batch).logps).sums().tolist() for model in (policy, small_policy()))
    rows = rows_in(tmp_path)
    assert [row["logp"] for row in rows] == pytest.approx(end, abs=1e-9)
    assert [row["start_logp"] for row in rows] == pytest.approx(start, abs=1e-9)
    assert [row["ref_logp"] for row in rows] == pytest.approx(start, abs=1e-4)  # float32 in the store
    assert [row["tokens"] for row in rows] == [len(r.ids) for group in HELD_OUT for r in group.responses]
    assert [row["side"] for row in rows] == ["chosen", "rejected"] * 5
    assert [row["example"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert {row["row"] for row in rows} == {group.where for group in HELD_OUT}
    assert {row["step"] for row in rows} == {4}
    assert len({row["prompt"] for row in rows}) == 5
    assert len({row["response"] for row in rows}) == 10


def test_the_averages_are_those_of_the_metrics(tmp_path):
    _, summary = train_small(tmp_path, held_out=HELD_OUT, **OPTIONS)
    rows = rows_in(tmp_path)
    ratios = [row["logp"] - row["ref_logp"] for row in rows]
    margins = [0.1 * (chosen - rejected) for chosen, rejected in zip(ratios[::2], ratios[1::2], strict=True)]
    assert sum(margins) / 5 == pytest.approx(summary.after["eval_rewards/margins"], abs=1e-7)
    assert -sum(ratios) / 10 == pytest.approx(summary.after["eval_kl"], abs=1e-6)


@pytest.mark.integration
def test_a_resumed_run_keeps_the_log_probs_of_its_start(tmp_path):
    options = {**OPTIONS, "held_out": HELD_OUT, "save_steps": 2}
    train_small(tmp_path / "straight", **options)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "broken", stop=("train", 3), **options)
    assert {row["step"] for row in rows_in(tmp_path / "broken")} == {0}
    train_small(tmp_path / "broken", resume=True, **options)
    assert rows_in(tmp_path / "broken") == rows_in(tmp_path / "straight")


def test_a_start_that_was_lost_is_null(tmp_path):
    write_held_out(RunDir(tmp_path), HELD_OUT[:1], [(0, 1, -2.0, None), (0, 0, -1.0, None)], 3)
    assert [(row["logp"], row["start_logp"], row["ref_logp"]) for row in rows_in(tmp_path)] == [
        (-1.0, None, None),
        (-2.0, None, None),
    ]


@pytest.mark.parametrize(
    ("loss", "want"),
    [
        ("simpo", ["chosen", "rejected"] * 2),
        ("selm", ["chosen", "rejected", None] * 2),
        ("plackett_luce", ["chosen", "rejected", "chosen", None, "rejected"]),
        ("sft", [None, None]),
        ("aot", ["chosen", "rejected"] * 2),
    ],
)
def test_which_responses_are_chosen_and_rejected(loss, want, tmp_path):
    data = {"groups": groups_for(loss, 4), "held_out": groups_for(loss, 2, seed=5)}
    train_small(tmp_path, loss=loss, max_steps=1, start_tolerance=None, **data)
    assert [row["side"] for row in rows_in(tmp_path)] == want


def test_labels_say_what_is_chosen_and_a_mismatched_response_is_neither(tmp_path):
    pair = random_pairs(1, seed=5)[0]
    roles = ("rejected", "chosen", "mismatched")
    responses = (*pair.responses, pair.responses[0])
    labelled = tuple(replace(one, role=role) for one, role in zip(responses, roles, strict=True))
    group = replace(pair, responses=labelled, is_pair=False)
    train_small(tmp_path, loss="kto", groups=groups_for("kto", 4), held_out=[group], max_steps=1, start_tolerance=None)
    assert [row["side"] for row in rows_in(tmp_path)] == ["rejected", "chosen", None]
