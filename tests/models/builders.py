"""Token groups for the tests of models, and the truth that every way of computing log-probs is held against."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tiny import VOCAB_SIZE, WINDOW

from tokenq.core.packing import pack
from tokenq.records.examples import TokenGroup, TokenResponse

SHAPES = ((WINDOW + 5, (WINDOW + 6, 1)), (3, (4, 6)), (1, (2, WINDOW + 1)))
"""Prompt and responses longer than the sliding window, a response and a prompt of one token, short ones."""


def random_groups(shapes=SHAPES, *, seed=0, holes=True, vocabulary=VOCAB_SIZE):
    """Return pairs of random tokens; some response tokens are not the policy's (never the first)."""
    rng = np.random.default_rng(seed)

    def draw(n):
        return rng.integers(0, vocabulary, n).astype(np.int32)

    def response(n, role):
        mask = rng.random(n) < 0.8 if holes else np.ones(n, dtype=bool)
        mask[0] = True
        return TokenResponse(draw(n), mask, True, role)

    roles = ("chosen", "rejected", "plain", "plain")
    return [
        TokenGroup(draw(m), tuple(map(response, ns, roles)), len(ns) == 2, f"row {i}")
        for i, (m, ns) in enumerate(shapes)
    ]


@dataclass(frozen=True)
class Result:
    """Log-probs [N] of all targets, and the gradient of a DPO loss for every weight that has one."""

    logps: torch.Tensor
    gradients: dict[str, torch.Tensor]


def own_logps(model, groups):
    """Return the log-probs by the model's own forward, one unpadded row at a time: log-softmax of its full logits."""
    found = []
    for group in groups:
        for response in group.responses:
            row = torch.from_numpy(np.concatenate((group.prompt_ids, response.ids)).astype(np.int64)).to(model.device)
            logps = model(input_ids=row[None], use_cache=False).logits[0].log_softmax(-1)
            columns = torch.from_numpy(np.flatnonzero(response.mask))
            places = columns + len(group.prompt_ids)
            found.append(logps[places - 1, row[places]])
    return torch.cat(found)


def dpo_loss(logps, groups):
    """Return the mean DPO loss (β = 0.3) against a made-up reference, written without the package."""
    lengths = [int(response.mask.sum()) for group in groups for response in group.responses]
    reference = torch.linspace(-8, -2, len(logps), dtype=logps.dtype, device=logps.device)
    sums = torch.stack([part.sum() for part in (logps - reference).split(lengths)])
    chosen, rejected = sums.reshape(-1, 2).unbind(1)
    return -F.logsigmoid(0.3 * (chosen - rejected)).mean()


def measure(model, logps, groups):
    """Return log-probs and gradients, leaving no gradient behind."""
    model.zero_grad()
    dpo_loss(logps, groups).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return Result(logps.detach(), gradients)


def truth_of(model, groups):
    """Return what the model's own forward gives."""
    return measure(model, own_logps(model, groups), groups)


def result_of(lm, groups):
    """Return what a `PackedLM` gives for all groups in one batch."""
    return measure(lm.model, lm(pack(groups)).logps, groups)


def assert_same(got, want, tolerance, gradient_tolerance=None):
    """Compare log-probs absolutely, and every gradient relative to the largest gradient of any weight.

    Args:
        got: what is tested.
        want: the truth.
        tolerance: for log-probs, in nats.
        gradient_tolerance: for gradients, the same as `tolerance` when None.
    """
    torch.testing.assert_close(got.logps, want.logps, rtol=0, atol=tolerance, check_dtype=False)
    assert got.gradients.keys() == want.gradients.keys()
    assert want.gradients
    scale = max(gradient.abs().max().item() for gradient in want.gradients.values())
    assert scale > 1e-3
    for name, gradient in want.gradients.items():
        difference = (got.gradients[name] - gradient).abs().max().item()
        assert difference <= (gradient_tolerance or tolerance) * scale, f"{name}: {difference:.3g} of {scale:.3g}"
