"""Policy gradients beside TRL 1.16: its own `_compute_loss` on one batch, the same value and the same slopes, to 1e-12.

TRL's trainers are asked for their loss alone; the log-probs that a network would give are given to them.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from tokenq.core.credit import group_relative, importance_weights, leave_one_out
from tokenq.core.losses import find_loss, find_sum
from tokenq.core.losses.inputs import Scene
from tokenq.core.tensors import Actions, Outputs, TokenLogps

# TRL and what it imports warn about many things of their own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LENGTH = 8
MASK = torch.arange(6) < torch.tensor([6, 3, 1, 5])[:, None]

CASES = {
    # name of the case: (our loss, its parameters, TRL's loss_type, its level, its ε below, ε above)
    "grpo": ("grpo", {}, "grpo", "token", 0.2, 0.2),
    "bnpo": ("bnpo", {}, "bnpo", "token", 0.2, 0.2),
    "dr_grpo": ("dr_grpo", {"length": float(LENGTH)}, "dr_grpo", "token", 0.2, 0.2),
    "dapo": ("dapo", {}, "dapo", "token", 0.2, 0.28),
    "gspo": ("gspo", {"clip_low": 0.1, "clip_high": 0.15}, "grpo", "sequence", 0.1, 0.15),
    "cispo": ("cispo", {"cap": 1.5}, "cispo", "token", 0.2, 1.5),
}


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OLD = -numbers(0, 4, 6).abs() * MASK
REF = OLD + 0.3 * numbers(1, 4, 6) * MASK
POLICY = OLD + 0.4 * numbers(2, 4, 6) * MASK
REWARDS = torch.tensor([1.0, 0.0, 0.25, 1.0], dtype=torch.float64)
GROUPS = torch.zeros(4, dtype=torch.long)


def trainer(loss_type, level, low, high, beta, logps, corrected=False):
    """Return what `_compute_loss` reads of a trainer."""
    metrics = {"train": defaultdict(list)}
    return SimpleNamespace(
        **{"loss_type": loss_type, "importance_sampling_level": level, "epsilon_low": low, "epsilon_high": high},
        **{"beta": beta, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "aux_loss_enabled": False},
        **{"use_vllm": corrected, "vllm_importance_sampling_correction": corrected, "_entropy_bonus_enabled": False},
        **{"max_completion_length": LENGTH, "current_gradient_accumulation_steps": 1, "_metrics": metrics},
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
    )


def batch(advantages, **more):
    ids = torch.zeros(4, 6, dtype=torch.long)
    return {
        **{
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1] + 1,
            "completion_ids": ids,
            "completion_mask": MASK.long(),
        },
        **{"advantages": advantages, "old_per_token_logps": OLD, "ref_per_token_logps": REF},
        **{"num_items_in_batch": MASK.sum().double(), **more},
    }


def theirs(case, advantages, *, beta=0.0, ratio=None):
    """Return TRL's value, slopes and metrics."""
    grpo = pytest.importorskip("trl").GRPOTrainer
    logps = POLICY.clone().requires_grad_()
    told = trainer(*CASES[case][2:], beta, logps, corrected=ratio is not None)
    more = {} if ratio is None else {"importance_sampling_ratio": ratio}
    value = grpo._compute_loss(told, None, batch(advantages, **more))
    value.backward()
    return value.item(), logps.grad, told._metrics["train"]


def ours(case, advantages, *, beta=0.0):
    """Return our value and slopes, averaged as the training loop does."""
    name, parameters = CASES[case][:2]
    logps = POLICY.clone().requires_grad_()
    policy = TokenLogps(logps, MASK)
    row = find_loss(name, parameters)
    counts = {"rollouts": 4, "actions": int(MASK.sum())}
    losses = row.function(policy, OLD, advantages)
    value = losses.sum() / counts[row.unit]
    if beta:
        term = find_loss("kl_k3").function(policy, TokenLogps(REF, MASK))
        per = MASK.sum(-1) if name in ("grpo", "gspo") else 1  # TRL averages its KL as the loss
        value = value + beta * (term / per).sum() / counts[row.unit]
    value.backward()
    return value.item(), logps.grad


@pytest.mark.parametrize("case", CASES)
def test_value_and_slopes_are_those_of_trl(case):
    advantages = group_relative(REWARDS, GROUPS)
    value, slopes, _ = theirs(case, advantages)
    got, own = ours(case, advantages[:, None] * MASK)
    assert got == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(own, slopes, rtol=0, atol=1e-12)
    assert slopes.abs().max() > 0.01


@pytest.mark.parametrize("case", ["grpo", "bnpo", "dapo"])
def test_with_its_kl(case):
    """The mean over tokens is `+β*kl_k3` as it stands; GRPO's is a mean over each response."""
    advantages = group_relative(REWARDS, GROUPS)
    value, slopes, _ = theirs(case, advantages, beta=0.3)
    got, own = ours(case, advantages[:, None] * MASK, beta=0.3)
    assert got == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(own, slopes, rtol=0, atol=1e-12)
    assert find_sum("dapo+0.3*kl_k3").terms[1].weight == 0.3


@pytest.mark.parametrize(("kind", "cap"), [("token", 1.2), ("sequence", 1.5)])
def test_weights_of_another_writer_are_those_of_trl(kind, cap):
    """TRL multiplies each token's loss, here its advantage is: weights are not below 0, so that it is the same."""
    advantages, writer = group_relative(REWARDS, GROUPS), OLD + 0.2 * numbers(3, 4, 6) * MASK
    weights = importance_weights(OLD, writer, MASK, kind, cap)
    gaps = (OLD - writer) * MASK
    gaps = gaps.sum(-1, keepdim=True) if kind == "sequence" else gaps
    value, slopes, _ = theirs("grpo", advantages, ratio=gaps.exp().clamp(max=cap))  # its "…_truncate"
    got, own = ours("grpo", weights * advantages[:, None])
    assert got == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(own, slopes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ["grpo", "gspo", "dapo"])
def test_shares_of_clipped_ratios_are_those_of_trl(case):
    advantages = group_relative(REWARDS, GROUPS)
    *_, metrics = theirs(case, advantages)
    name, parameters = CASES[case][:2]
    row = find_loss(name, parameters)
    responses, places = torch.nonzero(MASK, as_tuple=True)
    columns = {"old_logps": OLD[MASK], "advantages": (advantages[:, None] * MASK)[MASK]}
    nobody = torch.zeros(0, 2, dtype=torch.long)
    actions = Actions(responses, places, (4, 6), ("plain",) * 4, nobody, ((0, 0),) * 4, ("",) * 4, columns, {})
    scene = Scene(actions, Outputs(POLICY[MASK]))
    shown = row.metrics(scene, row.parameters())
    for side in ("low_mean", "high_mean", "region_mean"):
        total, count = shown[f"clip_ratio/{side}"]
        assert float(total) / count == pytest.approx(metrics[f"clip_ratio/{side}"][0], abs=1e-6)


def test_rloo_is_that_of_trl():
    rloo = pytest.importorskip("trl").RLOOTrainer
    advantages = leave_one_out(REWARDS, GROUPS)
    logps = (OLD + 0.1 * numbers(2, 4, 6) * MASK).requires_grad_()
    told = trainer("", "", 0.2, 0.2, 0.0, logps)
    given = {**batch(advantages), "old_logps": OLD.sum(-1)}
    value = rloo._compute_loss(told, None, given)
    (slopes,) = torch.autograd.grad(value, logps)
    got = find_loss("rloo").function(TokenLogps(logps, MASK), OLD, advantages[:, None] * MASK).mean()
    (own,) = torch.autograd.grad(got, logps)
    assert got.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(own, slopes, rtol=0, atol=1e-12)


def test_the_advantages_of_a_group_are_those_of_trl():
    """Its code stands inside a step that samples, so its formula is written out: mean, sample deviation, and 1e-4."""
    rewards = torch.tensor([1.0, 0.0, 0.25, 1.0, 3.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    groups = rewards.view(2, 4)
    scaled = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    places = torch.arange(8) // 4
    torch.testing.assert_close(group_relative(rewards, places), scaled.flatten())
    others = (groups.sum(1, keepdim=True) - groups) / 3
    torch.testing.assert_close(leave_one_out(rewards, places), (groups - others).flatten())
