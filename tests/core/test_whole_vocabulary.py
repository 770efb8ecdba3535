"""What losses read off the whole vocabulary: against the whole logits, and against finite differences."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from tokenq.core import vocabulary
from tokenq.core.logits import FullLogits, HeadLogits
from tokenq.core.logps import Head
from tokenq.core.readout import read_out
from tokenq.core.vocabulary import overlaps, reference_kls
from tokenq.errors import UserError

N, V, H = 7, 11, 4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head_logits(hidden, weight, softcap=None):
    return HeadLogits(hidden, Head(weight, drawn(V, seed=9), softcap))


@pytest.fixture(params=[2**26, 8 * V * 3], ids=["one row", "three positions a row"])
def _row_sizes(request, monkeypatch):
    monkeypatch.setattr(vocabulary, "ROW_BYTES", request.param)


def test_by_hand():
    """π_ref = (½, ½), π = (¾, ¼): ½ log(½/¾) + ½ log(½/¼) = log 2 − ½ log 3; Σ π² = 10/16."""
    policy = FullLogits(torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64))
    reference = FullLogits(torch.zeros(1, 2, dtype=torch.float64))
    assert reference_kls(policy, reference).item() == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-12)
    assert overlaps(policy).item() == pytest.approx(math.log(0.625), abs=1e-12)


@pytest.mark.integration
@pytest.mark.usefixtures("_row_sizes")
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_divergence_is_that_of_the_read_out_and_its_gradient_true(softcap):
    reference = head_logits(drawn(N, H, seed=3), drawn(V, H, seed=4))
    inputs = [drawn(N, H).requires_grad_(), drawn(V, H, seed=1).requires_grad_()]

    def divergence(hidden, weight):
        return reference_kls(head_logits(hidden, weight, softcap), reference)

    policy = head_logits(inputs[0].detach(), inputs[1].detach(), softcap)
    want = read_out(policy, reference, torch.zeros(N, dtype=torch.long), 0).ref_kls
    torch.testing.assert_close(divergence(*inputs), want, rtol=0, atol=1e-12)
    assert gradcheck(divergence, inputs)
    with torch.no_grad():
        torch.testing.assert_close(divergence(*inputs), want, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("_row_sizes")
def test_overlaps_are_those_of_the_whole_distribution_and_constants():
    z = drawn(N, V).requires_grad_()
    got = overlaps(FullLogits(z))
    torch.testing.assert_close(got, z.softmax(-1).square().sum(-1).log().detach(), rtol=0, atol=1e-12)
    assert not got.requires_grad


def test_no_positions_are_no_numbers():
    nothing = FullLogits(torch.zeros(0, V))
    assert reference_kls(nothing, nothing).shape == overlaps(nothing).shape == (0,)


def test_tokens_that_can_never_come_add_nothing():
    z, z_ref = drawn(N, V), drawn(N, V, seed=1)
    z[:, :3] = z_ref[:, :3] = -torch.inf
    z.requires_grad_()
    got = reference_kls(FullLogits(z), FullLogits(z_ref))
    torch.testing.assert_close(got, reference_kls(FullLogits(z[:, 3:]), FullLogits(z_ref[:, 3:])), rtol=0, atol=1e-12)
    (grad,) = torch.autograd.grad(got.sum(), z)
    assert grad.isfinite().all()


def test_a_reference_of_another_vocabulary_is_refused():
    for other in (None, FullLogits(torch.zeros(N, V + 1))):
        with pytest.raises(UserError, match="the same vocabulary"):
            reference_kls(FullLogits(torch.zeros(N, V)), other)
