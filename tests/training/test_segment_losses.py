"""Strengths by segment: margins, gradients and metrics by hand, and equal strengths that change no bit."""

import math

import pytest
import torch
from small_runs import groups_for

from tokenq.core.losses import LOSSES, find_sum
from tokenq.core.losses.inputs import Scene
from tokenq.core.packing import pack
from tokenq.core.tensors import Actions, Outputs
from tokenq.training.objective import Objective, add_sums

# One pair: words w, w and image i, i (chosen), w, i (rejected); log-ratios by action.
RATIOS = [1.0, -0.5, 2.0, 0.25, 0.5, -1.0]
SEGMENTS = [0, 0, 1, 1, 0, 1]
STRENGTHS = {"words": 0.1, "image": 0.02}
# words: 0.1 · (0.5 − 0.5) = 0; image: 0.02 · (2.25 + 1) = 0.065.
MARGINS = {"words": 0.0, "image": 0.065}


def actions(segments=SEGMENTS):
    return Actions(
        responses=torch.tensor([0, 0, 0, 0, 1, 1]),
        places=torch.tensor([0, 1, 2, 3, 0, 1]),
        shape=(2, 4),
        roles=("chosen", "rejected"),
        pairs=torch.tensor([[0, 1]]),
        members=((0, 0), (0, 1)),
        origins=("here", "here"),
        token_columns={"segments": torch.tensor(segments)},
        response_columns={},
    )


def judged(loss, strengths=STRENGTHS, ratios=RATIOS, parameters=None):
    reference = torch.full((6,), -3.0, dtype=torch.float64)
    policy = (reference + torch.tensor(ratios, dtype=torch.float64)).requires_grad_()
    losses = find_sum(loss, parameters or {"beta": 0.1})
    result = Objective(losses, losses.beta, segments=strengths).judge(Outputs(policy, reference), actions())
    totals = {}
    add_sums(totals, result.sums)
    return result, policy, Objective(losses, losses.beta, segments=strengths).means(totals)


def test_the_margin_is_the_sum_of_segments_at_their_strengths():
    result, _, means = judged("dpo")
    assert result.losses[0].item() == pytest.approx(math.log(1 + math.exp(-0.065)))
    assert means["rewards/margins"] == pytest.approx(0.065)
    assert {name: means[f"rewards/margins/{name}"] for name in STRENGTHS} == pytest.approx(MARGINS)
    assert means["rewards/chosen/image"] == pytest.approx(0.045)
    assert means["rewards/rejected/image"] == pytest.approx(-0.02)
    assert means["rewards/accuracies/words"] == 0.0
    assert means["rewards/accuracies/image"] == 1.0
    assert means["logps/chosen"] == pytest.approx(-12 + 2.75)  # as the model gives them
    # KL(π_ref‖π): −(0.5 + 0.5)/2 and −(2.25 − 1)/2, in nats, whatever the strengths.
    assert (means["kl/words"], means["kl/image"]) == pytest.approx((-0.5, -0.625))
    assert means["kl"] == pytest.approx(-1.125)


def test_gradients_are_to_each_other_as_strengths():
    """dL/d log π of chosen tokens: −σ(−h) β_s, whichever of them β is."""
    for beta in (0.1, 0.02, 3.0):
        result, policy, _ = judged("dpo", parameters={"beta": beta})
        result.losses[0].sum().backward()
        words, image = policy.grad[0].item(), policy.grad[2].item()
        assert words / image == pytest.approx(5.0)
        assert words == pytest.approx(-0.1 / (1 + math.exp(0.065)))
        assert policy.grad[5].item() == pytest.approx(-image)


def test_a_segment_of_strength_0_has_no_gradient():
    """What is left is DPO of the words alone: margin 0, loss log 2."""
    result, policy, means = judged("dpo", {"words": 0.1, "image": 0.0})
    assert result.losses[0].item() == pytest.approx(math.log(2))
    result.losses[0].sum().backward()
    assert policy.grad.tolist() == pytest.approx([-0.05, -0.05, 0, 0, 0.05, 0])
    assert means["rewards/accuracies/image"] == 1.0  # of its log-ratios


def test_likelihood_is_no_reward():
    """A term sft sees log π as it is: −Σ log π of the chosen response is 4 · 3 − 2.75."""
    result, _, means = judged("dpo+sft")
    assert result.losses[1].sum().item() == pytest.approx(9.25)
    assert means["rewards/margins"] == pytest.approx(0.065)


def test_a_loss_without_reference_scales_its_reward():
    """SimPO with β 2 and γ 1: 2/4 · (0.5 · (−5.5) + (−3.75)) against 2/2 · (0.5 · (−2.5) + (−4)), less 1."""
    result, _, _ = judged("simpo", {"words": 1.0, "image": 2.0}, parameters={"beta": 2.0, "gamma": 1.0})
    margin = 0.5 * (-2.75 - 3.75) - (-1.25 - 4.0) - 1
    assert result.losses[0].item() == pytest.approx(math.log(1 + math.exp(-margin)))


def test_every_loss_of_a_sum_has_the_strengths_whatever_its_beta():
    """IPO sums to (h/β − 1/(2β))² with the same h."""
    result, _, _ = judged("dpo+ipo_sum", parameters={"dpo.beta": 0.1, "ipo_sum.beta": 0.5})
    assert result.losses[0].item() == pytest.approx(math.log(1 + math.exp(-0.065)))
    assert result.losses[1].item() == pytest.approx((0.065 / 0.5 - 1.0) ** 2)


def test_the_spread_of_a_segment_is_that_of_its_margins_over_a_whole_step():
    """Margins 0.065 and −0.065 of the image in two batches: mean 0, standard deviation 0.065."""
    totals = {}
    for sign in (1, -1):
        add_sums(totals, judged("dpo", ratios=[sign * one for one in RATIOS])[0].sums)
    means = Objective(find_sum("dpo")).means(totals)
    assert means["rewards/margins/image"] == pytest.approx(0.0, abs=1e-12)
    assert means["rewards/margin_sd/image"] == pytest.approx(0.065)
    assert means["rewards/margin_sd/words"] == 0.0
    assert not any("squares" in name for name in means)


def test_a_segment_that_a_pair_lacks_says_nothing_of_it():
    found = judged("dpo", {"words": 0.1, "image": 0.02, "sound": 0.3})[0].sums
    assert found["rewards/accuracies/sound"][1] == 0
    assert found["rewards/margins/sound"] == (0.0, 1)


def _outputs(loss, batch):
    generator = torch.Generator().manual_seed(3)
    size = len(batch.targets)
    policy, reference, readouts = (-4 * torch.rand(size, generator=generator) for _ in range(3))
    read = {"readouts": readouts.abs()} if {"ref_kls", "overlaps"} & {*loss.inputs} else {}
    values = {"values": readouts} if "values" in loss.inputs else {}
    prm = {"prm_logps": readouts.requires_grad_()} if loss.network == "prm" else {}
    return Outputs(policy.requires_grad_(), reference, **read, **values, **prm)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.has_strengths])
def test_equal_strengths_change_no_bit(name):
    """Every loss of log-ratios: its values and gradients with all strengths β are those without segments."""
    loss = find_sum(name)
    batch = pack(groups_for(name))
    numbered = dict(batch.actions.token_columns) | {"segments": torch.arange(len(batch.targets)) % 2}
    split = Actions(**{**vars(batch.actions), "token_columns": numbered})
    found = []
    for segments, done in (({}, batch.actions), ({"a": loss.beta, "b": loss.beta}, split)):
        outputs = _outputs(LOSSES[name], batch)
        result = Objective(loss, loss.beta, segments=segments).judge(outputs, done)
        result.losses[0].sum().backward()
        moved = outputs.logps if outputs.prm_logps is None else outputs.prm_logps
        found.append((result.losses[0], moved.grad, result.sums["loss"][0]))
    assert found[0][1].abs().max() > 0
    assert all(torch.equal(*both) for both in zip(*found, strict=True))


def test_policy_gradients_and_likelihoods_have_no_strengths():
    without = {name for name, loss in LOSSES.items() if not loss.has_strengths}
    assert {"sft", "ppo", "grpo", "kl_k1", "kl_k3", "orpo", "cpo", "bradley_terry"} <= without
    assert {"dpo", "kto", "bco", "dro", "plackett_luce", "simpo", "tdpo2"}.isdisjoint(without)


def test_a_scene_without_segments_is_itself():
    scene = Scene(actions(), Outputs(torch.zeros(6), torch.zeros(6)))
    assert scene.scaled(0.1) is scene
