"""The loop gives the same weights however its work is cut up, stopped or resumed, and stops when it must."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from small_runs import (
    groups_for,
    lines_of,
    policy_for,
    random_pairs,
    small_config,
    small_policy,
    step_places,
    stored_reference,
    train_small,
    weights_of,
)

from tokenq.core.losses import LOSSES
from tokenq.core.losses.units import UNITS
from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.models.forward.policy import frozen_model, no_grad
from tokenq.training.source import Offline, total_steps

HELD_OUT = random_pairs(5, seed=7)


def assert_equal_weights(got, want, tolerance):
    got, want = weights_of(got), weights_of(want)
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_equal_lines(got, want, tolerance):
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, abs=tolerance), f"step {theirs['step']}: {name}"


def demonstrations(count):
    """Return groups of one response each, as for supervised training."""
    return [replace(pair, responses=pair.responses[:1], is_pair=False) for pair in random_pairs(count)]


@pytest.mark.parametrize("loss", ["dpo", "ipo", "sft"])
def test_accumulation_changes_nothing(tmp_path, loss):
    """One micro-batch a step, or as many as there are examples: the same metrics and the same weights."""
    options = {"loss": loss, "held_out": HELD_OUT if loss != "sft" else (), "max_steps": 4}
    options["groups"] = demonstrations(10) if loss == "sft" else random_pairs(10)
    whole, _ = train_small(tmp_path / "whole", tokens_per_batch=10_000, **options)
    parts, _ = train_small(tmp_path / "parts", tokens_per_batch=25, **options)
    assert_equal_weights(parts, whole, 1e-10)
    assert_equal_lines(lines_of(tmp_path / "parts"), lines_of(tmp_path / "whole"), 1e-10)
    start = weights_of(small_policy())
    assert any((whole.state_dict()[name] - start[name]).abs().max() > 1e-3 for name in start)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_accumulating_in_place_changes_nothing(tmp_path, family):
    """Tied and untied heads, several micro-batches a step, clipping, and evaluations between them."""
    results = []
    for in_place in (False, True):
        policy = small_policy(family=family)
        if in_place:
            policy.accumulate_in_place()
        out = tmp_path / str(in_place)
        options = {"held_out": HELD_OUT, "tokens_per_batch": 40, "max_steps": 4, "eval_steps": 2}
        train_small(out, policy=policy, max_grad_norm=0.1, **options)
        results.append((policy, lines_of(out)))
    assert_equal_weights(results[1][0], results[0][0], 1e-10)
    assert_equal_lines(results[1][1], results[0][1], 1e-10)


def test_padded_rows_train_as_shared_ones(tmp_path):
    shared, _ = train_small(tmp_path / "shared", max_steps=3)
    padded, _ = train_small(tmp_path / "padded", policy=small_policy(way="plain"), max_steps=3)
    assert_equal_weights(padded, shared, 1e-10)


def test_an_online_reference_trains_as_a_stored_one(tmp_path):
    """The frozen copy of the policy, and what the store keeps of it in float32: losses to seven digits."""
    stored, _ = train_small(tmp_path / "stored", max_steps=3)
    policy = small_policy()
    options = {"online": no_grad(frozen_model(policy)), "start_tolerance": 1e-12, "max_steps": 3}
    online, _ = train_small(tmp_path / "online", policy=policy, **options)
    assert_equal_weights(online, stored, 1e-5)
    for mine, theirs in zip(lines_of(tmp_path / "online"), lines_of(tmp_path / "stored"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    assert lines_of(tmp_path / "online")[0]["loss"] == pytest.approx(math.log(2), abs=1e-14)


class TestStart:
    @pytest.mark.parametrize("loss", ["dpo", "cdpo", "ipo", "ipo_sum", "hinge"])
    def test_the_first_step_is_where_policy_and_reference_are_one(self, tmp_path, loss):
        """At π = π_ref: dpo and cdpo −log σ(0) = ln 2; ipo (0 − 1/(2·0.1))² = 25; hinge max(0, 1 − 0) = 1."""
        train_small(tmp_path, loss=loss, max_steps=1)
        first = lines_of(tmp_path)[0]
        want = {"dpo": math.log(2), "cdpo": math.log(2), "ipo": 25.0, "ipo_sum": 25.0, "hinge": 1.0}[loss]
        assert first["loss"] == pytest.approx(want, abs=1e-5)
        assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
        assert first["kl"] == pytest.approx(0, abs=1e-5)

    def test_a_policy_with_dropout_is_refused(self, tmp_path):
        policy = small_policy(family="gpt2")
        for module in policy.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        with pytest.raises(UserError, match=r"does not start equal to its reference.*\n  Stored values"):
            train_small(tmp_path, policy=policy)

    def test_the_log_probs_of_another_model_are_refused(self, tmp_path):
        groups = random_pairs(10)
        moved = small_policy()
        with torch.no_grad():
            moved.lm.gpt_neox.final_layer_norm.weight[0] += 0.01
        with pytest.raises(UserError, match="does not start equal to its reference"):
            train_small(tmp_path, reference=stored_reference(moved, groups))
        assert not list(tmp_path.glob("checkpoints/*"))

    def test_the_worst_token_is_named(self, tmp_path):
        """One log-prob is moved: the second token of the rejected response of a certain row."""
        groups = random_pairs(10)
        place = next(p for p in step_places(small_config(tmp_path), 10, 0) if len(groups[p].responses[1].ids) > 1)
        store = stored_reference(small_policy(), groups)

        class Moved:
            def with_logps(self, groups):
                found = store.with_logps(groups)
                if groups:
                    chosen, rejected = found[place].responses
                    logps = rejected.token_columns["ref_logps"] + np.float32(0.5) * (np.arange(len(rejected.ids)) == 1)
                    moved = rejected.with_token_column("ref_logps", logps.astype(np.float32))
                    found[place] = replace(found[place], responses=(chosen, moved))
                return found

        message = rf"differs by 0\.5 nats \({groups[place].where}, response 2, token 2: policy"
        with pytest.raises(UserError, match=message):
            train_small(tmp_path, reference=Moved(), tokens_per_batch=30)

    def test_models_that_are_meant_to_differ_may(self, tmp_path):
        groups = random_pairs(10)
        other = stored_reference(small_policy(family="llama"), groups)
        _, summary = train_small(tmp_path, reference=other, start_tolerance=None, max_steps=1)
        assert summary.last["loss"] != pytest.approx(math.log(2), abs=1e-3)


class TestResume:
    @pytest.mark.parametrize("lora", [False, True], ids=["full", "adapter"])
    @pytest.mark.parametrize("stop", [1, 3, 5])
    def test_a_resumed_run_equals_an_uninterrupted_one(self, tmp_path, lora, stop):
        """Six steps, a checkpoint at every second, three steps an epoch: stopped before the first, in the middle of the
        second epoch, and before the last.
        """
        options = {"lora": lora, "save_steps": 2, "eval_steps": 2, "held_out": HELD_OUT, "tokens_per_batch": 60}
        straight, _ = train_small(tmp_path / "straight", **options)
        with pytest.raises(KeyboardInterrupt):
            train_small(tmp_path / "broken", stop=("train", stop), **options)
        again, summary = train_small(tmp_path / "broken", resume=True, **options)
        assert summary.steps == 6
        assert_equal_weights(again, straight, 1e-12)
        assert_equal_lines(lines_of(tmp_path / "broken"), lines_of(tmp_path / "straight"), 1e-12)
        steps = [line["step"] for line in lines_of(tmp_path / "broken")]
        assert steps == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]

    def test_noise_goes_on_where_it_was(self, tmp_path):
        """Dropout on the adapter's input: the generator's state is part of the checkpoint."""
        options = {"save_steps": 2, "start_tolerance": None, "max_steps": 4}
        torch.manual_seed(3)
        policy = small_policy(lora=True, dropout=0.4)
        torch.manual_seed(3)
        straight, _ = train_small(tmp_path / "straight", policy=policy, **options)
        policy = small_policy(lora=True, dropout=0.4)
        torch.manual_seed(3)
        with pytest.raises(KeyboardInterrupt):
            train_small(tmp_path / "broken", policy=policy, stop=("train", 3), **options)
        policy = small_policy(lora=True, dropout=0.4)
        torch.manual_seed(99)
        again, _ = train_small(tmp_path / "broken", policy=policy, resume=True, **options)
        assert_equal_weights(again, straight, 1e-12)

    def test_a_run_that_was_killed_in_its_last_evaluation_evaluates_again(self, tmp_path):
        options = {"held_out": HELD_OUT, "max_steps": 3, "tokens_per_batch": 40}
        train_small(tmp_path / "straight", **options)
        with pytest.raises(KeyboardInterrupt):
            self.stop_in_last_evaluation(tmp_path / "broken", options)
        assert lines_of(tmp_path / "broken")[-1]["step"] == 3
        assert "loss" in lines_of(tmp_path / "broken")[-1]
        _, summary = train_small(tmp_path / "broken", resume=True, **options)
        assert_equal_lines(lines_of(tmp_path / "broken"), lines_of(tmp_path / "straight"), 1e-12)
        assert summary.after["eval_loss"] == lines_of(tmp_path / "straight")[-1]["eval_loss"]

    @staticmethod
    def stop_in_last_evaluation(output, options):
        policy = small_policy()

        def stop(_module, _arguments, _output):
            if not policy.training and (output / "checkpoints" / "step-3").exists():
                raise KeyboardInterrupt

        policy.register_forward_hook(stop)
        train_small(output, policy=policy, **options)

    def test_a_finished_run_stays_as_it_is(self, tmp_path):
        options = {"held_out": HELD_OUT, "max_steps": 2}
        first, before = train_small(tmp_path, **options)
        lines = lines_of(tmp_path)
        again, after = train_small(tmp_path, resume=True, **options)
        assert_equal_weights(again, first, 0)
        assert_equal_lines(lines_of(tmp_path), lines, 1e-12)
        assert after.after == pytest.approx(before.after)
        assert after.steps == 2

    def test_without_a_checkpoint_it_begins_at_the_beginning(self, tmp_path):
        straight, _ = train_small(tmp_path / "straight", max_steps=2)
        fresh, summary = train_small(tmp_path / "fresh", max_steps=2, resume=True)
        assert_equal_weights(fresh, straight, 1e-12)
        assert summary.steps == 2

    def test_other_micro_batches_on_the_way_change_nothing(self, tmp_path):
        straight, _ = train_small(tmp_path / "straight", max_steps=4, tokens_per_batch=1000)
        with pytest.raises(KeyboardInterrupt):
            train_small(tmp_path / "broken", max_steps=4, save_steps=2, tokens_per_batch=1000, stop=("train", 3))
        again, _ = train_small(tmp_path / "broken", max_steps=4, save_steps=2, tokens_per_batch=30, resume=True)
        assert_equal_weights(again, straight, 1e-10)
        assert_equal_lines(lines_of(tmp_path / "broken"), lines_of(tmp_path / "straight"), 1e-10)


def poison(policy, place, value, *, through="output"):
    """Make a policy give `value` for an example, or only a gradient that is no number."""

    def hook(_module, arguments, output):
        batch = arguments[0]
        hit = torch.tensor([member == place for member, _ in batch.actions.members])[batch.actions.responses]
        if not output.logps.requires_grad or not hit.any():
            return output
        if through == "output":
            return output._replace(logps=output.logps.masked_fill(hit, value))
        output.logps.register_hook(lambda gradient: gradient.masked_fill(hit, value))
        return output

    return policy.register_forward_hook(hook)


class TestNoNumber:
    @pytest.mark.parametrize("value", [torch.nan, -torch.inf])
    def test_a_loss_stops_the_run_before_the_update_and_names_the_row(self, tmp_path, value):
        groups, policy = random_pairs(10), small_policy()
        bad = step_places(small_config(tmp_path), 10, 1)[2]
        handle = poison(policy, bad, value)
        message = rf"step 2 is not finite: {groups[bad].where}\. The weights before it are kept in .*step-1"
        with pytest.raises(UserError, match=message):
            train_small(tmp_path / "run", policy=policy, tokens_per_batch=40)
        handle.remove()
        resumed, _ = train_small(tmp_path / "run", resume=True)
        straight, _ = train_small(tmp_path / "straight")
        assert_equal_weights(resumed, straight, 1e-10)
        assert_equal_lines(lines_of(tmp_path / "run"), lines_of(tmp_path / "straight"), 1e-10)

    def test_the_update_is_not_made(self, tmp_path):
        """Nor is what other micro-batches of the step have given left behind as a gradient."""
        policy, options = small_policy(), {"tokens_per_batch": 25}
        poison(policy, step_places(small_config(tmp_path), 10, 1)[0], torch.nan)
        with pytest.raises(UserError):
            train_small(tmp_path / "run", policy=policy, **options)
        before = small_policy()
        with pytest.raises(KeyboardInterrupt):
            train_small(tmp_path / "before", policy=before, stop=("train", 1), **options)
        assert_equal_weights(policy, before, 0)
        assert all(p.grad is None for p in policy.parameters())

    def test_a_gradient_stops_the_run_too(self, tmp_path):
        groups, policy = random_pairs(10), small_policy()
        places = step_places(small_config(tmp_path), 10, 0)
        poison(policy, places[1], torch.nan, through="gradient")
        start = weights_of(policy)
        with pytest.raises(UserError, match="Loss or gradient of step 1 is not finite") as caught:
            train_small(tmp_path, policy=policy)
        assert all(groups[place].where in str(caught.value) for place in places)
        assert all(torch.equal(start[name], value) for name, value in weights_of(policy).items())

    def test_without_checkpoints_none_is_written(self, tmp_path):
        policy = small_policy()
        poison(policy, step_places(small_config(tmp_path), 10, 1)[0], torch.nan)
        with pytest.raises(UserError, match=r"No checkpoint was written \(--keep-checkpoints 0\)"):
            train_small(tmp_path, policy=policy, keep_checkpoints=0)
        assert not (tmp_path / "checkpoints").exists()

    def test_rows_are_named_up_to_eight(self, tmp_path):
        policy = small_policy()
        for place in range(10):
            poison(policy, place, torch.nan)
        with pytest.raises(UserError, match=r"(pairs\.jsonl, row \d+, ){7}pairs\.jsonl, row \d+ and 2 more\."):
            train_small(tmp_path, policy=policy, batch_size=10, start_tolerance=None)


class TestGradient:
    def test_it_is_clipped_to_the_norm_asked_for(self, tmp_path):
        """With SGD of rate 1 the weights move by the gradient, so their distance is its norm."""
        options = {"optimizer": "sgd", "learning_rate": 1.0, "max_steps": 1, "schedule": "constant"}
        start, directions = weights_of(small_policy()), []
        for limit in (0.0, 0.01, 1e6):
            policy, summary = train_small(tmp_path / str(limit), max_grad_norm=limit, **options)
            moves = torch.cat([(policy.state_dict()[n] - start[n]).flatten() for n in start])
            norm = summary.last["grad_norm"]
            assert norm > 0.1
            assert moves.norm().item() == pytest.approx(limit if limit == 0.01 else norm, rel=1e-4)
            directions.append(moves / moves.norm())
        torch.testing.assert_close(directions[1], directions[0], rtol=0, atol=1e-7)

    def test_it_is_that_of_the_mean_loss_of_the_step(self, tmp_path):
        """Against plain autograd on all pairs of the step at once."""
        groups = random_pairs(10)
        model, start = small_policy(), weights_of(small_policy())
        chosen = [groups[p] for p in step_places(small_config(tmp_path), 10, 0)]
        batch = pack(chosen)
        logps = batch.actions.pad(model(batch).logps)
        reference = logps.logps.detach()
        margins = ((logps.logps - reference) * logps.mask).sum(1)[batch.actions.pairs]
        torch.nn.functional.softplus(-0.1 * (margins[:, 0] - margins[:, 1])).mean().backward()
        options = {"optimizer": "sgd", "learning_rate": 1.0, "max_steps": 1, "schedule": "constant"}
        trained, _ = train_small(tmp_path, max_grad_norm=0.0, tokens_per_batch=30, **options)
        for name, parameter in model.named_parameters():
            want = start[name] - parameter.grad
            torch.testing.assert_close(trained.get_parameter(name).detach(), want, rtol=0, atol=1e-7)

    def test_the_step_is_as_long_as_the_schedule_says(self, tmp_path):
        """Linear from 1 over four steps: 1, 3/4, 1/2, 1/4 times the gradient, which is clipped to 0.01."""
        lengths, before = [], weights_of(small_policy())
        for steps in (1, 2, 3, 4):
            policy = small_policy()
            options = {"optimizer": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.01, "max_steps": 4}
            with pytest.raises(KeyboardInterrupt):
                train_small(tmp_path / str(steps), policy=policy, stop=("train", steps), **options)
            after = weights_of(policy)
            lengths.append(math.sqrt(sum((after[n] - before[n]).square().sum().item() for n in after)))
            before = after
        assert lengths == pytest.approx([0.01, 0.0075, 0.005, 0.0025], rel=1e-4)
        assert [line["learning_rate"] for line in lines_of(tmp_path / "4")] == [1.0, 0.75, 0.5, 0.25]


class TestMetrics:
    def test_the_supervised_loss_is_the_mean_over_the_tokens_of_the_step(self, tmp_path):
        groups, policy = demonstrations(4), small_policy()
        with torch.no_grad():
            want = -policy(pack(groups)).logps.mean().item()
        options = {"tokens_per_batch": 20, "max_steps": 1, "reference": stored_reference(policy, groups)}
        train_small(tmp_path, loss="sft", groups=groups, policy=policy, **options)
        assert lines_of(tmp_path)[0]["loss"] == pytest.approx(want, abs=1e-10)
        lengths = [len(group.responses[0].ids) for group in groups]
        assert lines_of(tmp_path)[0]["response_length"] == pytest.approx(sum(lengths) / 4)

    def test_evaluation_is_the_mean_over_all_pairs_and_changes_nothing(self, tmp_path):
        options = {"max_steps": 2, "tokens_per_batch": 40}
        plain, _ = train_small(tmp_path / "plain", **options)
        policy, summary = train_small(tmp_path / "evaluated", held_out=HELD_OUT, eval_steps=1, **options)
        assert_equal_weights(policy, plain, 1e-12)
        with torch.no_grad():
            batch = pack(HELD_OUT)
            both = [batch.actions.pad(model(batch).logps).sums() for model in (policy, small_policy())]
            logps = [sums[batch.actions.pairs] for sums in both]
        rewards = 0.1 * (logps[0] - logps[1])
        margins = rewards[:, 0] - rewards[:, 1]
        assert summary.after["eval_rewards/margins"] == pytest.approx(margins.mean().item(), abs=1e-6)
        assert summary.after["eval_rewards/accuracies"] == pytest.approx((margins > 0).double().mean().item())
        assert summary.after["eval_loss"] == pytest.approx(torch.log1p(torch.exp(-margins)).mean().item(), abs=1e-6)
        assert summary.before["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
        evaluated = [line["step"] for line in lines_of(tmp_path / "evaluated") if "eval_loss" in line]
        assert evaluated == [0, 1, 2]
        assert policy.training

    def test_tokens_are_counted_from_the_start(self, tmp_path):
        """Inputs of the shared rows: each prompt once, each response without its last token."""
        groups = random_pairs(10)
        train_small(tmp_path, groups=groups, tokens_per_batch=40)
        sizes = [len(g.prompt_ids) + sum(len(r.ids) - 1 for r in g.responses) for g in groups]
        assert lines_of(tmp_path)[2]["tokens"] == sum(sizes)
        assert lines_of(tmp_path)[5]["tokens"] == 2 * sum(sizes)
        assert [line["padding_share"] for line in lines_of(tmp_path)] == [0.0] * 6

    def test_padding_is_counted(self, tmp_path):
        train_small(tmp_path, policy=small_policy(way="plain"), max_steps=1)
        assert 0 < lines_of(tmp_path)[0]["padding_share"] < 1

    def test_the_epoch(self, tmp_path):
        train_small(tmp_path)
        assert [line["epoch"] for line in lines_of(tmp_path)] == pytest.approx(
            [1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2], abs=1e-6
        )


class TestOrder:
    def test_every_epoch_takes_every_example_once(self, tmp_path):
        config = small_config(tmp_path, batch_size=4)
        epochs = [[p for step in range(3) for p in step_places(config, 10, 3 * e + step)] for e in range(3)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert [len(step_places(config, 10, step)) for step in range(4)] == [4, 4, 2, 4]

    def test_it_is_the_seeds(self, tmp_path):
        one, same, other = (small_config(tmp_path, seed=seed) for seed in (0, 0, 1))
        assert step_places(one, 10, 0) == step_places(same, 10, 0) != step_places(other, 10, 0)

    def test_it_does_not_depend_on_how_the_step_is_computed(self, tmp_path):
        one, other = (small_config(tmp_path, tokens_per_batch=n) for n in (10, 10_000))
        assert step_places(one, 10, 4) == step_places(other, 10, 4)

    @pytest.mark.parametrize(
        ("changes", "want"),
        [
            ({"epochs": 2.0}, 6),
            ({"epochs": 0.5}, 2),  # half of three steps, rounded up
            ({"epochs": 1.0, "batch_size": 100}, 1),
            ({"max_steps": 7}, 7),
        ],
    )
    def test_the_number_of_steps(self, tmp_path, changes, want):
        config = small_config(tmp_path, **changes)
        per_epoch = Offline(random_pairs(10), UNITS["pairs"], config.batch_size, config.seed).per_epoch
        assert total_steps(config, per_epoch) == want


def _case(name):
    """Losses that are functions of a pair's log-probs and nothing else go one way through the loop, and so do those of
    rollouts: one or two are enough."""
    row = LOSSES[name]
    plain = row.unit == "pairs" and not row.inputs and not row.coupled and name not in ("dpo", "simpo")
    plain |= row.unit in ("rollouts", "actions") and name != "gspo"
    return pytest.param(name, marks=pytest.mark.slow) if plain else name


def _sum(text):
    return text if text == "ppo+0.5*value" else pytest.param(text, marks=pytest.mark.slow)


TERMS = {
    "value": "ppo+0.5*value",
    "clipped_value": "grpo+0.5*clipped_value",
    "kl_k2": "reinforce+0.1*kl_k2",
    "kl_k3": "gspo+0.1*kl_k3",
}
"""Losses that move no weight of the policy by themselves, or none at its start, in sums."""

CASES = [*(_case(name) for name in LOSSES if name not in TERMS), *map(_sum, TERMS.values())]
SUMS = ["dpo+0.2*sft", "kto+0.5*sft", "plackett_luce+0.1*sft", "aot+0.5*tdpo2", "dro+0.2*sft"]


@pytest.mark.parametrize(
    "loss", [*(_case(name) for name in LOSSES if name not in TERMS), *map(_sum, TERMS.values()), *SUMS]
)
def test_every_loss_trains_and_micro_batches_and_shared_prompts_change_nothing(loss, tmp_path):
    """Prompts shared in one micro-batch of the step, against padded rows in many: the same numbers, the same policy."""
    groups = groups_for(loss, 6)
    options = {"max_steps": 1, "groups": groups, "held_out": groups_for(loss, 5, seed=7), "start_tolerance": 1e-4}
    options |= {"max_grad_norm": 0.0, "optimizer": "sgd", "learning_rate": 1e-2}
    one, summary = train_small(tmp_path / "one", loss=loss, **options)
    many = policy_for(loss, way="plain")
    train_small(tmp_path / "many", loss=loss, policy=many, tokens_per_batch=25, **options)
    assert math.isfinite(summary.last["loss"])
    ours, theirs = lines_of(tmp_path / "one"), lines_of(tmp_path / "many")
    assert len(ours) == len(theirs) == 3
    for here, there in zip(ours, theirs, strict=True):
        counted = {"tokens", "padding_share"}  # padded rows compute prompts more than once
        assert {k: v for k, v in here.items() if k not in counted} == pytest.approx(
            {k: v for k, v in there.items() if k not in counted}, rel=1e-9, abs=1e-9, nan_ok=True
        )
    start = weights_of(policy_for(loss))
    assert max((v - start[n]).abs().max() for n, v in weights_of(one).items()) > 1e-6
    for name, value in weights_of(one).items():
        torch.testing.assert_close(weights_of(many)[name], value, rtol=1e-9, atol=1e-11)


class TestPrecision:
    def test_mixed_precision_keeps_the_weights_in_theirs(self, tmp_path):
        """bfloat16 has eight bits: losses to two digits, and not the same losses."""
        policy = small_policy(dtype=torch.float32)
        options = {"max_steps": 3, "start_tolerance": None}
        exact, _ = train_small(tmp_path / "exact", policy=policy, **options)
        mixed = small_policy(dtype=torch.float32)
        AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        train_small(tmp_path / "mixed", policy=mixed, accelerator=accelerator, **options)
        assert {weight.dtype for weight in mixed.parameters()} == {torch.float32}
        got, want = lines_of(tmp_path / "mixed"), lines_of(tmp_path / "exact")
        assert [line["loss"] for line in got] == pytest.approx([line["loss"] for line in want], abs=0.03)
        assert got[1]["loss"] != want[1]["loss"]
        assert_equal_weights(mixed, exact, 0.02)

    @pytest.mark.parametrize("lora", [False, True], ids=["full", "adapter"])
    def test_weights_in_half_precision_are_trained(self, tmp_path, lora):
        results = []
        for dtype in (torch.float32, torch.bfloat16):
            policy = small_policy(lora, layers=2, dtype=dtype)
            policy.accumulate_in_place()
            options = {
                "max_steps": 3,
                "start_tolerance": 0.1,
                "tokens_per_batch": 60,
                "learning_rate": 0.1 if lora else 0.01,
            }
            train_small(tmp_path / str(dtype), policy=policy, **options)
            results.append([line["loss"] for line in lines_of(tmp_path / str(dtype))])
        assert results[1] == pytest.approx(results[0], abs=0.05)
        assert results[1][2] != pytest.approx(math.log(2), abs=0.01)
