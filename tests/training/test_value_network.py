"""A value network beside the policy (DRO-V): what is shared, its own optimiser group and clip, resume, metrics."""

import math

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small_runs import groups_for, lines_of, small_config, small_policy, stored_reference, train_small, weights_of

from tokenq.core.losses.metrics.values import with_explained_variance
from tokenq.core.packing import pack
from tokenq.models.forward.networks import PolicyNetworks
from tokenq.models.forward.packed_lm import bare
from tokenq.models.forward.value_network import ValueNetwork
from tokenq.training.objective import averages
from tokenq.training.optim import make_optimizer

pytestmark = pytest.mark.integration

GROUPS, HELD_OUT = groups_for("dro"), groups_for("dro", 5, seed=7)


def valued(lora=False, way="segments"):
    """Return a tiny policy with its value network."""
    return PolicyNetworks(small_policy(lora, way=way), ["values"])


def moved(both):
    """Give the head of the value network weights, so that its body gets a gradient."""
    with torch.no_grad():
        torch.manual_seed(1)
        both.values.head.weight.normal_()
    return both


def test_it_begins_at_the_mean_and_reads_the_states_of_the_policy():
    """V = 0; with a head it is the head of the model's own last states, on unpadded rows."""
    both = valued()
    batch = pack(GROUPS[:4])
    logps, values = both(batch).logps, both(batch).values
    torch.testing.assert_close(logps, both.policy(batch).logps)
    assert (values == 0).all()
    head = moved(both).values.head
    model, at = bare(both.policy.release()), 0
    for group in GROUPS[:4]:
        for response in group.responses:
            ids = torch.tensor([*group.prompt_ids, *response.ids])[None]
            states = model(ids, output_hidden_states=True).hidden_states[-1][0]
            want = head(states)[len(group.prompt_ids) - 1 : -1, 0]
            got = ValueNetwork.forward(both.values, batch)[at : at + len(response.ids)]
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
            at += len(response.ids)
    torch.testing.assert_close(moved(valued(way="plain"))(batch).values, both.values(batch), rtol=0, atol=1e-6)


def test_no_trained_weight_is_shared_and_every_frozen_one_is():
    both = valued()
    own, theirs = ({id(p) for p in part.parameters()} for part in (both.policy, both.values))
    assert not own & theirs
    both = valued(lora=True)
    names = {id(p): name for name, p in both.policy.named_parameters()}
    trained = [p for p in both.values.parameters() if p.requires_grad]
    assert trained
    assert not {id(p) for p in trained} & names.keys()
    frozen = [p for p in both.values.parameters() if not p.requires_grad]
    assert frozen
    assert {id(p) for p in frozen} <= names.keys()


def test_the_value_network_has_groups_of_its_own_in_the_optimiser():
    both = valued()
    groups = make_optimizer(both, small_config("unused", weight_decay=0.1), both.beside())[0].param_groups
    apart = {id(p) for p in both.values.parameters()}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    assert [{id(p) in apart for p in group["params"]} for group in groups] == [{False}, {False}, {True}, {True}]
    assert sum(len(group["params"]) for group in groups) == len(list(both.parameters()))


def test_each_network_gets_the_gradient_of_its_own_square(tmp_path):
    """One step of SGD at rate 1 against autograd on the formula written out, with one value per response."""
    both, plain = moved(valued()), moved(valued())
    batch = pack(stored_reference(plain.policy, GROUPS).with_logps(GROUPS))
    outputs = plain(batch)
    logps, values = outputs.logps, outputs.values
    d = batch.actions.pad(logps).sums() - batch.actions.pad(batch.actions.token_columns["ref_logps"].double()).sums()
    first = torch.tensor([int((batch.actions.responses == s).nonzero()[0, 0]) for s in range(batch.actions.shape[0])])
    left = batch.actions.response_columns["rewards"].double() - values[first] - 0.5 * d
    ((left.detach() * -d).mean() + (left.detach() * -values[first]).mean()).backward()
    options = {"optimizer": "sgd", "learning_rate": 1.0, "max_steps": 1, "schedule": "constant", "batch_size": 15}
    start = weights_of(both)
    train_small(tmp_path, loss="dro", policy=both, groups=GROUPS, parameters={"beta": 0.5, "values": "prompt"},
                max_grad_norm=0.0, tokens_per_batch=40, **options)  # fmt: skip
    for name, parameter in plain.named_parameters():
        want = start[name] - (0 if parameter.grad is None else parameter.grad)
        torch.testing.assert_close(both.state_dict()[name], want, rtol=0, atol=1e-6)


def test_the_two_gradients_are_clipped_apart(tmp_path):
    """A loud value network leaves the policy's step as it is: each moves by the limit, or by its own norm."""
    options = {"optimizer": "sgd", "learning_rate": 1.0, "max_steps": 1, "schedule": "constant"}
    both = moved(valued())
    start = weights_of(both)
    _, summary = train_small(tmp_path, loss="dro", policy=both, groups=GROUPS, max_grad_norm=0.05, **options)
    for part, norm in (("policy.", "grad_norm"), ("values.", "values/grad_norm")):
        assert summary.last[norm] > 0.05
        moves = [(v - start[n]).flatten() for n, v in both.state_dict().items() if n.startswith(part)]
        assert torch.cat(moves).norm().item() == pytest.approx(0.05, rel=1e-3)


def test_the_value_network_has_a_learning_rate_of_its_own(tmp_path):
    """SGD whose gradients are cut to a norm of 0.05: one step at rates 1 and ¼, and the rates of two that fall."""
    options = {"loss": "dro", "groups": GROUPS, "optimizer": "sgd", "learning_rate": 1.0, "value_learning_rate": 0.25}
    both = moved(valued())
    start = weights_of(both)
    train_small(tmp_path / "one", policy=both, max_grad_norm=0.05, max_steps=1, schedule="constant", **options)
    for part, moves in (("policy.", 0.05), ("values.", 0.0125)):
        own = [(v - start[n]).flatten() for n, v in both.state_dict().items() if n.startswith(part)]
        assert torch.cat(own).norm().item() == pytest.approx(moves, rel=1e-3)
    train_small(tmp_path / "two", policy=moved(valued()), max_steps=2, **options)
    lines = [line for line in lines_of(tmp_path / "two") if "learning_rate" in line]
    assert [(line["learning_rate"], line["values/learning_rate"]) for line in lines] == [(1.0, 0.25), (0.5, 0.125)]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "adapter"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, lora):
    """Weights of both networks and every number, to the bit: the checkpoint holds the value network and its moments."""
    options = {"loss": "dro", "groups": GROUPS, "held_out": HELD_OUT, "save_steps": 2, "eval_steps": 2}
    straight, broken, again = valued(lora), valued(lora), valued(lora)
    train_small(tmp_path / "straight", policy=straight, **options)
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "broken", policy=broken, stop=("train", 3), **options)
    train_small(tmp_path / "broken", policy=again, resume=True, **options)
    start = weights_of(valued(lora))
    for name, want in weights_of(straight).items():
        assert torch.equal(weights_of(again)[name], want), name
    assert not torch.equal(weights_of(straight)["values.head.weight"], start["values.head.weight"])
    assert lines_of(tmp_path / "broken") == lines_of(tmp_path / "straight")
    (folder,) = (tmp_path / "straight" / "checkpoints").iterdir()
    beside = load_file(folder / "state" / "weights.safetensors")
    assert {name.split(".")[1] for name in beside} == {"body", "head"}
    policy = load_file(folder / ("adapter_model.safetensors" if lora else "model.safetensors"))
    assert not any("values" in name for name in policy)
    if lora:
        assert all("lora" in name or name.startswith("values.head") for name in beside)


def test_what_the_metrics_say(tmp_path):
    """Before the first step V = 0 and d = 0: both losses are ½ mean r², and nothing is explained."""
    groups = [*GROUPS]
    options = {"parameters": {"values": "tokens"}, "epochs": 28.0, "learning_rate": 1e-2}
    _, summary = train_small(tmp_path, loss="dro", groups=groups, held_out=groups, **options)
    rewards = torch.tensor([r.response_columns["rewards"] for g in groups for r in g.responses]).double()
    sizes = torch.tensor([len(r.ids) for g in groups for r in g.responses]).double()
    before = summary.before
    assert before["eval_loss"] == pytest.approx(rewards.square().mean().item(), rel=1e-5)
    by_prefix = (rewards.square() * sizes).sum() / sizes.sum() / 2
    assert before["eval_values/loss"] == pytest.approx(by_prefix.item(), rel=1e-5)
    assert before["eval_values/mean"] == 0
    assert before["eval_values/explained_variance"] == pytest.approx(0, abs=1e-5)
    # Ten rows learnt by heart: policy and value together leave nothing of the rewards.
    assert summary.after["eval_values/loss"] < 0.05 * before["eval_values/loss"]
    assert summary.after["eval_values/explained_variance"] > 0.8
    assert not {name for name in summary.after if "target" in name or "residual" in name}
    assert summary.last["values/grad_norm"] > 0


def test_explained_variance_by_hand():
    """Targets 1 and 3, values 1.5 and 2.5: Var(−0.5, 0.5) = 0.25 of Var(1, 3) = 1. With one target there is none."""
    moments = {
        "loss": [0.25, 2],
        "mean": [4.0, 2],
        "residual": [0.0, 2],
        "target": [4.0, 2],
        "squared_target": [10.0, 2],
    }
    found = with_explained_variance(averages({f"values/{name}": sums for name, sums in moments.items()}))
    assert found == {"values/loss": 0.125, "values/mean": 2.0, "values/explained_variance": 0.75}
    moments = {"loss": [0.5, 1], "mean": [1.0, 1], "residual": [1.0, 1], "target": [2.0, 1], "squared_target": [4.0, 1]}
    found = with_explained_variance(averages({f"values/{name}": sums for name, sums in moments.items()}))
    assert math.isnan(found["values/explained_variance"])


def test_imitation_beside_it_learns_from_what_is_above_the_mean(tmp_path):
    _, summary = train_small(tmp_path, loss="dro+0.5*sft", groups=GROUPS, max_steps=1, batch_size=15)
    policy = small_policy()
    above = [(g, r) for g in GROUPS for r in g.responses if r.response_columns["rewards"] > 0]
    logps = [policy(pack([type(g)(g.prompt_ids, (r,), False, g.where)])).logps for g, r in above]
    assert summary.last["loss/sft"] == pytest.approx(-torch.cat(logps).mean().item(), rel=1e-5)


def test_checkpointed_activations_change_nothing(tmp_path):
    accelerator, found = Accelerator(cpu=True), []
    for on in (False, True):
        both = moved(valued())
        if on:
            both.values.body.gradient_checkpointing_enable({"use_reentrant": False})
            both.policy.lm.gradient_checkpointing_enable({"use_reentrant": False})
        train_small(tmp_path / str(on), loss="dro", policy=both, groups=GROUPS, max_steps=2, accelerator=accelerator)
        found.append(weights_of(both))
    for name, want in found[0].items():
        torch.testing.assert_close(found[1][name], want, rtol=0, atol=1e-12)
