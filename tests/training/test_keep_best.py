"""The best checkpoint by a held-out metric is kept, and a run ends where evaluations no longer improve."""

import json
import shutil

import pytest
import torch
from small_runs import lines_of, random_pairs, train_small, weights_of

from tokenq.errors import Interrupted, UserError
from tokenq.rundir import RunDir
from tokenq.training.recorded import best_step, check_metric, evaluations_of
from tokenq.training.stopping import Watch

pytestmark = pytest.mark.integration

HELD_OUT = random_pairs(6, seed=5)
LONG = {"max_steps": 12, "eval_steps": 2, "held_out": HELD_OUT, "learning_rate": 2e-2, "keep_best": "eval_loss"}


def held_out(folder, metric):
    """Return the metric of every evaluation after the start, by step, read off the file."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[metric] for line in lines if metric in line and line["step"]}


@pytest.mark.parametrize(("metric", "choose"), [("eval_loss", min), ("eval_rewards/margins", max), ("eval_kl", min)])
def test_the_best_of_the_log_is_kept_beside_the_newest(tmp_path, metric, choose):
    _, summary = train_small(tmp_path, **{**LONG, "keep_best": metric})
    values = held_out(tmp_path, metric)
    assert sorted(values) == [2, 4, 6, 8, 10, 12]
    best = choose(values, key=values.get)
    assert summary.best == {"metric": metric, "step": best, "value": values[best]}
    assert RunDir(tmp_path).steps() == sorted({best, 12})


def test_the_best_of_a_run_that_only_gets_worse_is_its_first(tmp_path):
    """With labels reversed by the sign of the metric: held-out KL grows with every step from 0."""
    train_small(tmp_path, **{**LONG, "keep_best": "eval_kl", "keep_checkpoints": 2, "save_steps": 4})
    values = held_out(tmp_path, "eval_kl")
    assert min(values, key=values.get) == 2
    assert RunDir(tmp_path).steps() == [2, 8, 12]


def test_a_run_ends_where_evaluations_no_longer_improve_and_resumes_to_the_same_end(tmp_path):
    """KL is best at the first evaluation: two more do not improve, and step 6 is the last."""
    options = {**LONG, "keep_best": "eval_kl", "early_stopping_patience": 2}
    policy, summary = train_small(tmp_path / "whole", **options)
    assert summary.steps == 6
    assert RunDir(tmp_path / "whole").steps() == [2, 6]
    assert sorted(held_out(tmp_path / "whole", "eval_kl")) == [2, 4, 6]
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "parts", **options, save_steps=3, stop=("train", 5))
    again, summary = train_small(tmp_path / "parts", **options, save_steps=3, resume=True)
    assert summary.steps == 6
    assert all(torch.equal(weights_of(policy)[name], value) for name, value in weights_of(again).items())
    assert lines_of(tmp_path / "parts") == lines_of(tmp_path / "whole")
    _, ended = train_small(tmp_path / "parts", **options, save_steps=3, resume=True)
    assert (ended.steps, ended.after) == (6, summary.after)
    assert lines_of(tmp_path / "parts") == lines_of(tmp_path / "whole")
    _, longer = train_small(tmp_path / "parts", **{**options, "early_stopping_patience": 3}, resume=True)
    assert longer.steps == 8


def test_a_metric_that_does_not_exist_stops_the_run_before_its_first_step(tmp_path):
    with pytest.raises(UserError, match=r"Unknown held-out metric 'eval_los'.(.|\n)*Did you mean 'eval_loss'"):
        train_small(tmp_path, **{**LONG, "keep_best": "eval_los"})
    assert not any("loss" in line for line in lines_of(tmp_path))


def test_only_held_out_metrics_with_a_direction_can_be_best():
    names = ["eval_loss", "eval_response_length/chosen", "eval_values/mean", "eval_rewards/margins", "loss"]
    check_metric("eval_rewards/margins", names)
    for name in ("loss", "eval_response_length/chosen", "eval_values/mean", "rewards/margins"):
        with pytest.raises(UserError, match="Available: eval_loss, eval_rewards/margins"):
            check_metric(name, names)


def test_the_direction_of_metrics():
    """(smaller at step 1, larger at step 2): which is better."""
    smaller = ["eval_loss", "eval_loss/sft", "eval_kl", "eval_mse/helpfulness", "eval_rewards/rejected"]
    larger = ["eval_rewards/accuracies", "eval_rewards/margins", "eval_logps/chosen", "eval_pearson/helpfulness"]
    for step, metrics in ((1, smaller), (2, larger)):
        for metric in metrics:
            assert best_step({1: {metric: 0.1}, 2: {metric: 0.2}}, metric) == step, metric


def test_the_earliest_of_equals_is_best_and_what_is_no_number_never_is():
    found = {2: {"eval_loss": float("nan")}, 4: {"eval_loss": 0.5}, 6: {"eval_loss": 0.5}, 8: {"eval_loss": None}}
    assert best_step(found, "eval_loss") == 4
    assert best_step({2: {}}, "eval_loss") is None
    lines = [{"step": 0, "eval_loss": 0.1}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 0.4, "eval_kl": None}]
    assert evaluations_of(lines) == {2: {"eval_loss": 0.4}}


def test_patience_counts_evaluations_since_the_best():
    watch = Watch("eval_loss", 2, {})
    ended = []
    for step, value in enumerate([0.5, 0.4, 0.45, 0.39, 0.39, 0.41], 1):
        watch.add(step, {"eval_loss": value})
        ended.append(watch.stalled())
    assert ended == [False, False, False, False, False, True]


def test_checkpoints_without_optimiser_state_cannot_be_resumed_from_and_are_smaller(tmp_path):
    sizes = {}
    for name, alone in (("all", False), ("policy", True)):
        train_small(tmp_path / name, max_steps=2, save_only_model=alone)
        folder = RunDir(tmp_path / name).checkpoint(2)
        sizes[name] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert (folder / "state").exists() != alone
    assert sizes["policy"] < 0.4 * sizes["all"]
    with pytest.raises(UserError, match=r"step-2 holds no optimiser state"):
        train_small(tmp_path / "policy", max_steps=4, save_only_model=True, resume=True)
    shutil.rmtree(RunDir(tmp_path / "all").checkpoint(2) / "state")
    with pytest.raises(UserError, match=r"Train its policy further in another --output: --model .*step-2"):
        train_small(tmp_path / "all", max_steps=4, resume=True)


def test_a_run_that_is_stopped_says_what_its_checkpoint_lacks(tmp_path):
    from tokenq.training import loop

    def stop(trainer):
        trainer.job.request.signum = 15
        return update(trainer, trainer.done)

    update = loop._Trainer.update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Trainer, "update", lambda trainer, _step: stop(trainer))
        with pytest.raises(Interrupted, match=r"a checkpoint of its policy alone \(--save-only-model\)"):
            train_small(tmp_path, max_steps=4, save_only_model=True)
