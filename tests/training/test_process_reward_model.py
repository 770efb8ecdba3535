"""An implicit process reward model beside the policy: what is shared, who moves what, clips, resume, metrics."""

import math

import pytest
import torch
from safetensors.torch import load_file
from small_runs import (
    groups_for,
    lines_of,
    small_config,
    small_policy,
    stored_reference,
    train_small,
    weights_of,
    with_random_outcomes,
)

from tokenq.core.losses import find_sum
from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.training.optim import make_optimizer

pytestmark = pytest.mark.integration

BOTH = "ppo+0.5*value+implicit_prm"
GROUPS, HELD_OUT = groups_for(BOTH), groups_for(BOTH, 5, seed=7)
SGD = {"optimizer": "sgd", "learning_rate": 1.0, "schedule": "constant", "batch_size": 15, "max_steps": 1}


def beside(lora=False, names=("prm",), **more):
    """Return a tiny policy with the networks beside it."""
    return PolicyNetworks(small_policy(lora, **more), names)


def of(weights, network):
    """Return the weights of one network, under the names that they have in it."""
    return {name.removeprefix(f"{network}."): one for name, one in weights.items() if name.startswith(f"{network}.")}


@pytest.mark.parametrize("way", ["segments", "plain"])
@pytest.mark.parametrize("family", ["gpt_neox", "gemma3"])
def test_it_begins_as_the_policy(family, way):
    both, batch = beside(way=way, family=family), pack(GROUPS[:4])
    outputs = both(batch)
    assert torch.equal(outputs.prm_logps, outputs.logps)
    assert torch.equal(outputs.logps, both.policy(batch).logps)
    assert both.prm.own_attention == both.policy.own_attention
    tied = [
        one.lm.get_output_embeddings().weight is one.lm.get_input_embeddings().weight for one in (both.policy, both.prm)
    ]
    assert tied == [family == "gemma3"] * 2


def test_no_trained_weight_is_shared_and_every_frozen_one_is():
    both = beside(names=("values", "prm"))
    parts = [{id(p) for p in part.parameters()} for part in (both.policy, both.values, both.prm)]
    assert len(set().union(*parts)) == sum(map(len, parts))
    both = beside(lora=True, names=("values", "prm"))
    policy = {id(p): p.requires_grad for p in both.policy.parameters()}
    for network in both.beside().values():
        trained = [id(p) for p in network.parameters() if p.requires_grad]
        assert trained
        assert not {*trained} & policy.keys()
        frozen = {id(p) for p in network.parameters() if not p.requires_grad}
        assert frozen
        assert frozen <= {name for name, is_trained in policy.items() if not is_trained}


def test_every_network_has_groups_of_its_own_in_the_optimiser():
    both = beside(names=("values", "prm"))
    groups = make_optimizer(both, small_config("unused", weight_decay=0.1), both.beside())[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0] * 3
    owners = {id(p): name for name, one in both.beside().items() for p in one.parameters()}
    found = [{owners.get(id(p), "policy") for p in group["params"]} for group in groups]
    assert found == [{name} for name in ("policy", "policy", "values", "values", "prm", "prm")]
    assert sum(len(group["params"]) for group in groups) == len(list(both.parameters()))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "adapter"])
def test_the_policy_moves_as_without_it_and_it_moves_as_a_policy_does_alone(tmp_path, lora):
    """Four steps of AdamW, to the last bit: neither is moved, or clipped, by what the other is for."""
    both, alone = beside(lora), small_policy(lora)
    options = {"groups": GROUPS, "max_grad_norm": 0.05, "tokens_per_batch": 40}
    train_small(tmp_path / "both", loss="grpo+implicit_prm", policy=both, **options)
    policy, _ = train_small(tmp_path / "policy", loss="grpo", lora=lora, **options)
    train_small(tmp_path / "alone", loss="implicit_prm", policy=alone, **options)
    start = weights_of(small_policy(lora))
    for network, single in (("policy", policy), ("prm", alone)):
        found, want = of(weights_of(both), network), weights_of(single)
        assert found.keys() == want.keys()
        assert all(torch.equal(found[name], want[name]) for name in want)
        assert any(not torch.equal(start[name], want[name]) for name in want)


def test_alone_it_is_the_policy_and_cross_entropy_of_labels(tmp_path):
    """`--loss implicit_prm` trains no network beside; with outcomes 1 and 0 it is `ce` to the last bit."""
    assert find_sum("implicit_prm").networks == ()
    assert find_sum("grpo+implicit_prm").networks == ("prm",)
    assert find_sum(BOTH).networks == ("values", "prm")
    groups = groups_for("ce")
    told = [g.map(lambda one: one.with_response_column("outcomes", float(one.role == "chosen"))) for g in groups]
    found = [train_small(tmp_path / loss, loss=loss, groups=told)[0] for loss in ("ce", "implicit_prm")]
    assert all(torch.equal(one, other) for one, other in zip(*(weights_of(p).values() for p in found), strict=True))


def test_its_gradient_is_that_of_the_formula_written_out(tmp_path):
    """A step of SGD at rate 1 against autograd on −o log σ(β d) − (1 − o) log(1 − σ(β d)), the mean of responses."""
    both, plain = beside(), beside()
    batch = pack(stored_reference(plain.policy, GROUPS).with_logps(GROUPS))
    logps, columns = plain(batch).prm_logps, batch.actions
    d = columns.pad(logps).sums() - columns.pad(columns.token_columns["ref_logps"].double()).sums()
    right, outcomes = torch.sigmoid(0.7 * d), columns.response_columns["outcomes"].double()
    (-outcomes * right.log() - (1 - outcomes) * (1 - right).log()).mean().backward()
    start, options = weights_of(both), {"parameters": {"implicit_prm.beta": 0.7}, "max_grad_norm": 0.0}
    train_small(tmp_path, loss="grpo+2*implicit_prm", policy=both, groups=GROUPS, tokens_per_batch=40, **options, **SGD)
    for name, parameter in plain.prm.named_parameters():
        want = start[f"prm.{name}"] - 2 * parameter.grad
        torch.testing.assert_close(both.state_dict()[f"prm.{name}"], want, rtol=0, atol=1e-6)
    assert all(p.grad is None for p in plain.policy.parameters())


def test_every_gradient_is_clipped_by_its_own_norm(tmp_path):
    both = beside(names=("values", "prm"))
    with torch.no_grad():
        torch.manual_seed(1)
        both.values.head.weight.normal_()
    start = weights_of(both)
    _, summary = train_small(tmp_path, loss=BOTH, policy=both, groups=GROUPS, max_grad_norm=0.02, **SGD)
    for network, norm in (("policy", "grad_norm"), ("values", "values/grad_norm"), ("prm", "prm/grad_norm")):
        assert summary.last[norm] > 0.02
        moves = [(one - start[n]).flatten() for n, one in both.state_dict().items() if n.startswith(f"{network}.")]
        assert torch.cat(moves).norm().item() == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "adapter"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, lora):
    """Weights of all three and every number, to the bit; the policy's folder holds the policy alone."""
    options = {"loss": BOTH, "groups": GROUPS, "held_out": HELD_OUT, "save_steps": 2, "eval_steps": 2}
    straight, broken, again = (beside(lora, ("values", "prm")) for _ in range(3))
    train_small(tmp_path / "straight", policy=straight, **options)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "broken", policy=broken, stop=("train", 3), **options)
    train_small(tmp_path / "broken", policy=again, resume=True, **options)
    start, found = weights_of(beside(lora, ("values", "prm"))), weights_of(again)
    for name, want in weights_of(straight).items():
        assert torch.equal(found[name], want), name
    assert any(not torch.equal(found[name], start[name]) for name in start if name.startswith("prm."))
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "straight")
    (folder,) = (tmp_path / "straight" / "checkpoints").iterdir()
    stored = load_file(folder / "state" / "weights.safetensors")
    assert {name.split(".")[0] for name in stored} == {"values", "prm"}
    if lora:
        assert all("lora" in name or name.startswith("values.head") for name in stored)
    policy = load_file(folder / ("adapter_model.safetensors" if lora else "model.safetensors"))
    assert not any("prm" in name or "values" in name for name in policy)


@pytest.mark.parametrize("loss", ["kto+implicit_prm", "dpo+0.5*implicit_prm", "dro+implicit_prm", "sft+implicit_prm"])
def test_it_learns_from_any_data_and_micro_batches_change_nothing(tmp_path, loss):
    """Beside a loss that sees whole steps, one of pairs, one of rewards, and demonstrations; steps are uneven."""
    found, groups = [], groups_for(loss)
    names = find_sum(loss).networks
    for budget in (30, 1000):
        both = beside(names=names)
        train_small(tmp_path / str(budget), loss=loss, policy=both, groups=groups, tokens_per_batch=budget)
        found.append(weights_of(both))
    for name, want in found[0].items():
        torch.testing.assert_close(found[1][name], want, rtol=0, atol=1e-11)
    start = weights_of(beside(names=names))
    assert any(not torch.equal(found[0][name], start[name]) for name in start if name.startswith("prm."))


def test_what_the_metrics_say(tmp_path):
    """At the start d = 0: the loss is log 2, and accuracy would be noise. Ten rows are then learnt by heart."""
    options = {"groups": GROUPS, "held_out": GROUPS, "epochs": 24.0, "learning_rate": 1e-2, "parameters": {"beta": 1.0}}
    _, summary = train_small(tmp_path, loss="grpo+implicit_prm", **options)
    outcomes = [one.response_columns["outcomes"] for group in GROUPS for one in group.responses]
    before, after = summary.before, summary.after
    assert before["eval_loss/implicit_prm"] == pytest.approx(math.log(2), rel=1e-6)
    assert math.isnan(before["eval_prm/accuracies"])
    assert (before["eval_prm/rewards/right"], before["eval_prm/rewards/wrong"]) == (pytest.approx(0, abs=1e-5),) * 2
    assert after["eval_prm/accuracies"] == 1
    assert after["eval_prm/rewards/right"] > 1
    assert after["eval_prm/rewards/wrong"] < -0.5
    entropies = [-o * math.log(o) - (1 - o) * math.log(1 - o) if 0 < o < 1 else 0.0 for o in outcomes]
    assert after["eval_loss/implicit_prm"] == pytest.approx(sum(entropies) / len(entropies), abs=0.03)
    assert summary.last["prm/grad_norm"] > 0


def test_imitation_beside_it_learns_from_what_is_right(tmp_path):
    groups = with_random_outcomes(groups_for("dro"))
    _, summary = train_small(tmp_path, loss="sft+implicit_prm", groups=groups, max_steps=1, batch_size=15)
    right = [(g, r) for g in groups for r in g.responses if r.response_columns["outcomes"] == 1]
    policy = small_policy()
    logps = [policy(pack([type(g)(g.prompt_ids, (r,), False, g.where)])).logps for g, r in right]
    assert summary.last["loss/sft"] == pytest.approx(-torch.cat(logps).mean().item(), rel=1e-5)


def test_losses_of_other_data_are_still_not_added():
    for text in ("dpo+grpo+implicit_prm", "kto+dro+implicit_prm"):
        with pytest.raises(UserError, match="adds losses of"):
            find_sum(text)
    assert find_sum("implicit_prm").selection == "rewarded"
    assert find_sum("implicit_prm+kto").selection == "labelled"
    assert find_sum("sft+implicit_prm").unit.name == "outcomes"
    assert find_sum("sft").unit.name == "responses"
