"""Log-probs from tiles against log-softmax of the whole logits: values, gradients, types, memory tricks."""

import pytest
import torch
from torch.autograd import gradcheck

from tokenq.core import logps
from tokenq.core.logps import Head, Workspace, token_logps

N, H, V = 10, 5, 700  # with 4 rows and 256 columns a tile: 3 x 3 tiles, the last ones smaller


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(logps, "CPU_TILE", (4, 256))


@pytest.fixture
def count_products(monkeypatch):
    """Count how many tiles of logits are computed."""
    calls = []
    compute = logps._tile_logits

    def counting(*arguments, out):
        calls.append(arguments)
        return compute(*arguments, out=out)

    monkeypatch.setattr(logps, "_tile_logits", counting)
    return calls


def make(dtype=torch.float64, *, bias=True, scale=1.0, n=N):
    """Return hidden, weight, bias and targets; the targets meet every column tile and its edges."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()

    targets = torch.tensor([0, 255, 256, 511, 512, 699, 3, 300, 600, 17])[:n]
    return draw(n, H), draw(V, H), draw(V) if bias else None, targets


def whole(hidden, weight, bias, softcap):
    """Return log-softmax of the full logits, the textbook way."""
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    return torch.log_softmax(logits if softcap is None else softcap * torch.tanh(logits / softcap), -1)


def gradients(output, inputs):
    """Return the gradients of a weighted sum, so that every row has another slope (one of them 0)."""
    slopes = torch.linspace(-1.5, 3.0, len(output), dtype=output.dtype)
    return torch.autograd.grad((output * slopes).sum(), [tensor for tensor in inputs if tensor is not None])


def test_the_tiles_cover_the_logits_once():
    hidden, weight, _, _ = make()
    seen = torch.zeros(N, V, dtype=torch.int)
    tiles = list(logps._spans(N, V, hidden))
    for rows, columns in tiles:
        seen[rows, columns] += 1
    assert len(tiles) == 9
    assert (seen == 1).all()
    assert weight.shape == (V, H)


@pytest.mark.parametrize("keep_bytes", [2**30, 0], ids=["kept", "recomputed"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_values_and_gradients_are_those_of_the_whole_logits(softcap, bias, keep_bytes, count_products):
    hidden, weight, offset, targets = make(bias=bias)
    got = token_logps(hidden, Head(weight, offset, softcap, keep_bytes=keep_bytes), targets)
    want = whole(hidden, weight, offset, softcap)[torch.arange(N), targets]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    inputs = (hidden, weight, offset)
    for mine, theirs in zip(gradients(got, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    assert len(count_products) == (9 if keep_bytes else 18)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradcheck(softcap):
    hidden, weight, bias, targets = make(n=3)
    weight, bias = weight[:300].detach().requires_grad_(), bias[:300].detach().requires_grad_()
    targets = targets.clamp(max=299)

    def function(hidden, weight, bias):
        return token_logps(hidden, Head(weight, bias, softcap, keep_bytes=0), targets)

    assert gradcheck(function, (hidden, weight, bias), fast_mode=True)


def test_only_the_gradients_that_are_wanted_are_computed():
    hidden, weight, bias, targets = make()
    want = whole(hidden, weight, bias, None)[torch.arange(N), targets]
    in_hidden, in_weight, in_bias = gradients(want, [hidden, weight, bias])
    frozen = [tensor.detach() for tensor in (hidden, weight, bias)]
    for live, truth, arguments in (
        (hidden, in_hidden, (hidden, Head(*frozen[1:]))),
        (weight, in_weight, (frozen[0], Head(weight, frozen[2]))),
        (bias, in_bias, (frozen[0], Head(frozen[1], bias))),
    ):
        torch.testing.assert_close(*gradients(token_logps(*arguments, targets), [live]), truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("keep_bytes", [2**30, 0], ids=["kept", "recomputed"])
def test_the_weight_gradient_is_added_to_a_buffer_and_autograd_hears_nothing(keep_bytes):
    hidden, weight, bias, targets = make()
    want = whole(hidden, weight, bias, None)[torch.arange(N), targets]
    in_hidden, in_weight, in_bias = gradients(want, [hidden, weight, bias])
    buffer = torch.full_like(weight, 2.0)
    head = Head(weight, bias, weight_grad=buffer, keep_bytes=keep_bytes)
    for round_ in (1, 2):
        slopes = torch.linspace(-1.5, 3.0, N, dtype=torch.float64)
        (token_logps(hidden, head, targets) * slopes).sum().backward()
        torch.testing.assert_close(buffer, 2.0 + round_ * in_weight, rtol=0, atol=1e-12)
        torch.testing.assert_close(hidden.grad, round_ * in_hidden, rtol=0, atol=1e-12)
        torch.testing.assert_close(bias.grad, round_ * in_bias, rtol=0, atol=1e-12)
    assert weight.grad is None


def test_a_second_backward_through_kept_tiles_is_refused_and_not_wrong():
    """Kept tiles are overwritten by their gradient; whoever asks twice must not get numbers made of that."""
    hidden, weight, bias, targets = make()
    output = token_logps(hidden, Head(weight, bias), targets)
    output.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_without_gradients_nothing_is_kept():
    hidden, weight, bias, targets = make()
    with torch.no_grad():
        output = token_logps(hidden, Head(weight, bias), targets)
    assert not output.requires_grad
    torch.testing.assert_close(output, whole(hidden, weight, bias, None)[torch.arange(N), targets].detach())


def test_half_precision_gives_single_precision_logps_and_gradients_of_its_own_type():
    hidden, weight, bias, targets = make(torch.bfloat16)
    got = token_logps(hidden, Head(weight, bias), targets)
    assert got.dtype == torch.float32
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias)]
    want = whole(*exact, None)[torch.arange(N), targets]
    # The product is rounded to bfloat16 (8 bits: 2^-9 of logits up to 8), the log-sum-exp is not.
    torch.testing.assert_close(got.double(), want, rtol=0, atol=0.05)
    mine, theirs = gradients(got, [hidden, weight, bias]), gradients(want, exact)
    for tensor, truth in zip(mine, theirs, strict=True):
        assert tensor.dtype == torch.bfloat16
        assert (tensor.double() - truth).norm() / truth.norm() < 0.02


def test_the_sum_over_the_vocabulary_is_not_done_in_half_precision():
    """700 equal logits: log p = −log 700 = −6.551. bfloat16 has −6.5625 and −6.53125 on either side."""
    hidden, weight = torch.zeros(1, H, dtype=torch.bfloat16), torch.zeros(V, H, dtype=torch.bfloat16)
    got = token_logps(hidden, Head(weight), torch.tensor([3]))
    assert got.item() == pytest.approx(-6.551080335043404, abs=1e-5)


def test_a_certain_token_has_probability_one_in_half_precision_too():
    """Logits of 30 are rounded to steps of 1/8: the target's must be rounded as its share of the sum is."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(V, 64, generator=generator).bfloat16()
    targets = torch.arange(0, V, 35)
    hidden = (weight[targets] * 0.5).requires_grad_()
    exact = torch.log_softmax(hidden.double() @ weight.double().T, -1)[torch.arange(20), targets]
    assert exact.min() > -1e-3
    for head in (Head(weight), Head(weight, softcap=100.0)):
        got = token_logps(hidden, head, targets)
        assert got.max() <= 1e-6
        assert got.min() > -1e-2


def test_mixed_precision_returns_the_gradient_in_the_type_of_the_weight():
    hidden, _, _, targets = make(torch.bfloat16)
    _, weight, _, _ = make(torch.float32)
    token_logps(hidden, Head(weight), targets).sum().backward()
    assert hidden.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32
    assert weight.grad.abs().sum() > 0


def test_logits_far_from_zero_do_not_overflow():
    hidden, weight, bias, targets = make(torch.float32, scale=100.0)
    got = token_logps(hidden, Head(weight, bias), targets)
    want = whole(hidden.double(), weight.double(), bias.double(), None)[torch.arange(N), targets]
    assert want.min() < -10_000
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-2)
    assert all(gradient.isfinite().all() for gradient in gradients(got, [hidden, weight, bias]))


def test_no_targets_are_no_logps():
    _, weight, _, _ = make()
    hidden = torch.zeros(0, H, dtype=torch.float64, requires_grad=True)
    output = token_logps(hidden, Head(weight), torch.zeros(0, dtype=torch.long))
    assert output.shape == (0,)
    output.sum().backward()
    assert weight.grad.abs().sum() == 0


class TestWorkspace:
    def test_memory_is_used_again(self):
        workspace, like = Workspace(), torch.zeros(1, dtype=torch.float64)
        first = workspace.take(10, like)
        workspace.give(first)
        second = workspace.take(6, like)
        assert second.data_ptr() == first.data_ptr()
        assert (len(first), len(second)) == (10, 6)
        workspace.give(second)
        assert workspace.take(10, like).data_ptr() == first.data_ptr()

    def test_memory_that_waits_for_its_backward_pass_is_not_given_away(self):
        workspace, like = Workspace(), torch.zeros(1)
        first = workspace.take(10, like)
        workspace.give(first)
        again = workspace.take(10, like)
        assert again.data_ptr() == first.data_ptr()
        assert workspace.take(10, like).data_ptr() != again.data_ptr()

    def test_memory_of_another_type_is_not_taken(self):
        workspace = Workspace()
        workspace.give(workspace.take(10, torch.zeros(1)))
        assert workspace.take(10, torch.zeros(1, dtype=torch.float64)).dtype == torch.float64

    def test_graphs_that_share_one_do_not_spoil_each_other(self):
        """Two graphs wait at a time, a third takes the memory of the first, one without gradients comes between."""
        hidden, weight, bias, targets = make()
        head = Head(weight, bias)
        inputs = (hidden, weight, bias)
        want = gradients(whole(hidden, weight, bias, None)[torch.arange(N), targets], inputs)
        first, second = (token_logps(hidden, head, targets) for _ in range(2))
        with torch.no_grad():
            token_logps(hidden, head, targets)
        for output in (first, second):
            for mine, theirs in zip(gradients(output, inputs), want, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
            third = token_logps(hidden, head, targets)
        for mine, theirs in zip(gradients(third, inputs), want, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)

    def test_it_keeps_its_largest_buffer_through_smaller_batches(self):
        hidden, weight, _, targets = make()
        head = Head(weight)
        for n in (N, 2, N):
            gradients(token_logps(hidden[:n], head, targets[:n]), [weight])
        assert max(len(buffer) for buffer in head.workspace._free) == N * V


def test_entries_that_can_never_be_taken():
    """A bias of −∞ over a whole tile of the vocabulary: its tokens have log p = −∞, the others lose nothing."""
    hidden, weight, bias, targets = make()
    bias = bias.detach()
    bias[256:512] = -torch.inf
    got = token_logps(hidden, Head(weight, bias), targets)
    want = whole(hidden, weight, bias, None)[torch.arange(N), targets]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert want.isfinite().sum() == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 11, 15, 16, 17])
def test_logits_of_rows_are_products_bias_and_cap_whatever_their_number(rows, dtype):
    weight, bias = torch.randn(50, 12, dtype=dtype), torch.randn(50)
    hidden = torch.randn(rows, 12, dtype=dtype)
    want = (
        torch.stack([weight.double() @ one + bias.double() for one in hidden.double()]) if rows else torch.empty(0, 50)
    )
    found = logps.row_logits(hidden, Head(weight, bias, softcap=3.0))
    assert found.shape == (rows, 50)
    assert found.dtype == torch.float32
    atol = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found.double(), 3 * torch.tanh(want.double() / 3), rtol=0, atol=atol)
