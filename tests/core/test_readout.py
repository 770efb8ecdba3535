"""What two models say, from tiles, against plain log-softmax of the whole logits; and through real tiny models."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from tiny import FAMILIES, VOCAB_SIZE, tiny_model

from tokenq.core import readout
from tokenq.core.logits import FullLogits, HeadLogits, Logits, highest_of
from tokenq.core.logps import Head, token_logps
from tokenq.core.packing import pack
from tokenq.core.readout import Candidates, Readout, read_logps, read_out
from tokenq.errors import UserError
from tokenq.models.forward.packed_lm import WAYS, PackedLM
from tokenq.models.forward.policy import ReferencedPolicy
from tokenq.models.load import add_lora
from tokenq.records.examples import TokenGroup, TokenResponse

N, H, V = 10, 5, 700  # with 4 rows and 256 columns a tile: 3 x 3 tiles, the last ones smaller
TARGETS = torch.tensor([0, 255, 256, 511, 512, 639, 3, 300, 600, 17])  # in every column tile, and at its edges


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(readout, "CPU_TILE", (4, 256))


def truth(z, z_ref, targets, k):
    """Return the numbers from log-softmax of the whole logits [N, V] and [N, V']."""
    rows, common = torch.arange(len(targets)), min(z.shape[1], z_ref.shape[1])
    k = min(k, common)
    own, ref = z.log_softmax(-1), z_ref.log_softmax(-1)

    def rank(logits):
        return (logits > logits[rows, targets][:, None]).sum(1)

    def kl(first, second):
        p, q = first[:, :common].log_softmax(-1), second[:, :common].log_softmax(-1)
        return torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(1)

    def best(logits):
        ids = logits[:, :common].argsort(1, descending=True)[:, :k]
        return Candidates(ids, own.gather(1, ids), ref.gather(1, ids))

    return Readout(
        logps=own[rows, targets],
        ref_logps=ref[rows, targets],
        ranks=rank(z),
        ref_ranks=rank(z_ref),
        entropies=torch.special.entr(own.exp()).sum(1),
        ref_entropies=torch.special.entr(ref.exp()).sum(1),
        kls=kl(z, z_ref),
        ref_kls=kl(z_ref, z),
        likely=best(z),
        ref_likely=best(z_ref),
    )


def assert_same(got, want, atol, rtol=0.0):
    """Compare every field, of candidates too."""
    for field in fields(want):
        mine, theirs = getattr(got, field.name), getattr(want, field.name)
        if isinstance(theirs, Candidates):
            assert_same(mine, theirs, atol, rtol)
        else:
            torch.testing.assert_close(
                mine,
                theirs,
                rtol=rtol,
                atol=atol,
                check_dtype=False,
                msg=lambda said, name=field.name: f"{name}: {said}",
            )


def make(kind, vocabulary=V, *, seed=0, dtype=torch.float64, n=N):
    """Return logits of one kind in tiles, and whole."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(1.5).to(dtype).requires_grad_()

    hidden, weight = draw(n, H), draw(vocabulary, H)
    bias = draw(vocabulary) if "bias" in kind else None
    softcap = 12.0 if "softcap" in kind else None
    logits = (hidden @ weight.T if bias is None else hidden @ weight.T + bias).detach()
    whole = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return (FullLogits(whole) if kind == "full" else HeadLogits(hidden, Head(weight, bias, softcap))), whole


KINDS = [("head", "head"), ("bias", "softcap"), ("bias softcap", "full"), ("full", "bias"), ("full", "full")]


@pytest.mark.parametrize("sizes", [(V, V), (V, 640), (640, V)], ids=["alike", "policy-padded", "reference-padded"])
@pytest.mark.parametrize("kinds", KINDS, ids=[" and ".join(kinds) for kinds in KINDS])
def test_every_number_is_that_of_the_whole_logits(kinds, sizes):
    (policy, z), (reference, z_ref) = (make(kinds[i], sizes[i], seed=i) for i in range(2))
    got = read_out(policy, reference, TARGETS, 4)
    assert_same(got, truth(z, z_ref, TARGETS, 4), 1e-12)
    assert not any(getattr(got, field.name).requires_grad for field in fields(got) if "likely" not in field.name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(V, V), (V, 640), (640, V)], ids=["alike", "policy-padded", "reference-padded"])
@pytest.mark.parametrize("kinds", KINDS, ids=[" and ".join(kinds) for kinds in KINDS])
def test_log_probs_alone_are_the_same_to_the_last_bit(kinds, sizes, dtype):
    policy, reference = (
        make(kind, size, seed=i, dtype=dtype)[0] for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True))
    )
    whole = read_out(policy, reference, TARGETS, 4)
    logps, ref_logps = read_logps(policy, reference, TARGETS)
    assert torch.equal(logps, whole.logps)
    assert torch.equal(ref_logps, whole.ref_logps)
    none = torch.zeros(0, dtype=torch.long)
    assert [len(one) for one in read_logps(make(kinds[0], n=0)[0], make(kinds[1], n=0)[0], none)] == [0, 0]


@pytest.mark.parametrize("kinds", KINDS[1:4], ids=[" and ".join(kinds) for kinds in KINDS[1:4]])
def test_single_precision(kinds):
    (policy, z), (reference, z_ref) = (make(kinds[i], seed=i, dtype=torch.float32) for i in range(2))
    got = read_out(policy, reference, TARGETS, 4)
    assert got.logps.dtype == torch.float32
    assert_same(got, truth(z.double(), z_ref.double(), TARGETS, 4), 1e-4)


def test_models_that_hardly_differ_do_not_drown_in_rounding():
    """A divergence of 1e-5 nats between logits of size 10: a difference of two large sums would not see it."""
    policy, z = make("full", dtype=torch.float32)
    reference = FullLogits(z + 0.005 * make("full", seed=1, dtype=torch.float32)[1] / 3)
    got = read_out(policy, reference, TARGETS, 0)
    want = truth(z.double(), reference.logits.double(), TARGETS, 0)
    assert 1e-6 < want.kls.min() < want.kls.max() < 1e-3
    torch.testing.assert_close(got.kls.double(), want.kls, rtol=0, atol=2e-6)
    assert read_out(policy, policy, TARGETS, 0).kls.tolist() == [0.0] * N
    nearly = FullLogits(z + 1e-4 * torch.randn(z.shape, generator=torch.Generator().manual_seed(2)))
    assert read_out(policy, nearly, TARGETS, 0).kls.min() >= 0


def test_by_hand():
    """Logits (0, log 2, log 5) are 1/8, 1/4, 5/8; against a uniform model, token 1 taken.

    H(π) = 1/8 log 8 + 1/4 log 4 + 5/8 log 8/5; KL(π‖u) = log 3 − H(π), KL(u‖π) = H(u, π) − log 3.
    """
    policy = FullLogits(torch.tensor([[0.0, math.log(2), math.log(5)]], dtype=torch.float64))
    reference = FullLogits(torch.full((1, 3), 7.0, dtype=torch.float64))
    got = read_out(policy, reference, torch.tensor([1]), 2)
    entropy = math.log(8) / 8 + math.log(4) / 4 + math.log(8 / 5) * 5 / 8
    cross = (math.log(8) + math.log(4) + math.log(8 / 5)) / 3
    assert got.logps.item() == pytest.approx(math.log(1 / 4), abs=1e-14)
    assert got.ref_logps.item() == pytest.approx(math.log(1 / 3), abs=1e-14)
    assert (got.ranks.item(), got.ref_ranks.item()) == (1, 0)
    assert got.entropies.item() == pytest.approx(entropy, abs=1e-14)
    assert got.ref_entropies.item() == pytest.approx(math.log(3), abs=1e-14)
    assert got.kls.item() == pytest.approx(math.log(3) - entropy, abs=1e-14)
    assert got.ref_kls.item() == pytest.approx(cross - math.log(3), abs=1e-14)
    assert got.likely.ids.tolist() == [[2, 1]]
    assert got.likely.logps[0].exp().tolist() == pytest.approx([5 / 8, 1 / 4], abs=1e-14)
    assert got.likely.ref_logps[0].exp().tolist() == pytest.approx([1 / 3, 1 / 3], abs=1e-14)


def coarse(vocabulary, *, seed, dtype=torch.bfloat16):
    """Return states and weights whose products are exact in float32 in any order, and are rounded in bfloat16."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randint(-31, 32, shape, generator=generator)

    return (draw(N, H) / 16).to(dtype), draw(vocabulary, H).to(dtype), (draw(vocabulary) / 8).to(dtype)


@pytest.mark.parametrize("softcap", [None, 100.0])
def test_half_precision_is_that_of_the_rounded_products(softcap):
    """Rounded products stand in steps, so that many tokens are equally likely: none of them is above another."""
    found = []
    for seed in (0, 1):
        hidden, weight, bias = coarse(V, seed=seed)
        z = (hidden.double() @ weight.double().T).bfloat16().double() + bias.double()
        z = z if softcap is None else softcap * torch.tanh(z / softcap)
        found.append((HeadLogits(hidden, Head(weight, bias, softcap)), z))
    (policy, z), (reference, z_ref) = found
    got, want = read_out(policy, reference, TARGETS, 0), truth(z, z_ref, TARGETS, 0)
    assert ((z == z[torch.arange(N), TARGETS][:, None]).sum(1) > 1).sum() >= 2
    assert_same(got, want, 1e-4, rtol=1e-5)
    assert got.logps.dtype == torch.float32
    torch.testing.assert_close(got.logps, policy.logps(TARGETS), rtol=0, atol=1e-5)


def test_single_precision_weights_under_half_precision_states():
    hidden, weight, bias = coarse(V, seed=0)
    half = read_out(HeadLogits(hidden, Head(weight, bias)), HeadLogits(hidden, Head(weight)), TARGETS, 3)
    single = Head(weight.float(), bias.float())
    mixed = read_out(HeadLogits(hidden, single), HeadLogits(hidden, Head(weight)), TARGETS, 3)
    assert_same(mixed, half, 0)


def test_whole_logits_in_half_precision_are_summed_in_single_precision():
    logits = torch.zeros(1, V, dtype=torch.bfloat16)
    got = read_out(FullLogits(logits), FullLogits(logits), torch.tensor([5]), 1)
    assert got.logps.item() == pytest.approx(-math.log(V), abs=1e-5)
    assert got.entropies.item() == pytest.approx(math.log(V), abs=1e-5)


def test_a_token_ties_with_itself_and_with_others_and_none_of_them_is_above_it():
    flat = make("head")[0]
    flat = HeadLogits(flat.hidden, Head(torch.zeros(V, H, dtype=torch.float64)))
    got = read_out(flat, flat, TARGETS, 3)
    assert got.ranks.tolist() == [0] * N
    assert got.entropies.tolist() == pytest.approx([math.log(V)] * N)
    assert got.likely.logps.flatten().tolist() == pytest.approx([-math.log(V)] * 3 * N)
    assert all(len(set(ids)) == 3 for ids in got.likely.ids.tolist())


def test_single_precision_does_not_put_a_token_below_its_like():
    """All entries are one, and only the order of summing could set them apart; the taken token is in the last tile."""
    generator = torch.Generator().manual_seed(0)
    hidden, row = torch.randn(N, 300, generator=generator), torch.randn(300, generator=generator)
    logits = HeadLogits(hidden, Head(row.repeat(V, 1)))
    got = read_out(logits, logits, torch.full((N,), 600), 0)
    assert got.ranks.tolist() == [0] * N


def test_the_parts_of_many_positions_are_put_together_in_order():
    """10 positions in tiles of 4: as few equal parts as possible, 4, 4 and 2; and each alone."""
    policy, reference = make("bias")[0], make("softcap", seed=1)[0]
    together = read_out(policy, reference, TARGETS, 2)
    for i in range(N):
        alone = read_out(
            HeadLogits(policy.hidden[i : i + 1], policy.head),
            HeadLogits(reference.hidden[i : i + 1], reference.head),
            TARGETS[i : i + 1],
            2,
        )
        for field in fields(Readout):
            mine, theirs = getattr(together, field.name), getattr(alone, field.name)
            if isinstance(mine, Candidates):
                assert torch.equal(mine.ids[i : i + 1], theirs.ids)
            else:
                torch.testing.assert_close(mine[i : i + 1], theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("k", "kept"), [(0, 0), (1, 1), (300, 300), (V, 640), (10 * V, 640)])
def test_as_many_alternatives_as_were_asked_for_and_there_are(k, kept):
    (policy, z), (reference, z_ref) = make("head"), make("bias", 640, seed=1)
    got = read_out(policy, reference, TARGETS, k)
    assert got.likely.ids.shape == got.ref_likely.logps.shape == (N, kept)
    assert_same(got, truth(z, z_ref, TARGETS, k), 1e-12)


@pytest.mark.parametrize("k", [0, 2])
def test_no_positions_are_no_numbers(k):
    policy, reference = make("head", n=0)[0], make("full", n=0)[0]
    got = read_out(policy, reference, torch.zeros(0, dtype=torch.long), k)
    assert got.logps.shape == got.ranks.shape == got.kls.shape == (0,)
    assert got.likely.ids.shape == got.ref_likely.logps.shape == (0, k)


def test_entries_of_one_model_alone_count_in_its_own_numbers_and_are_no_alternatives():
    """The policy's padding, entries 3 and 4, has half of its mass: so say its log-probs, its rank, its entropy."""
    policy = FullLogits(torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]], dtype=torch.float64))
    reference = FullLogits(torch.zeros(1, 3, dtype=torch.float64))
    got = read_out(policy, reference, torch.tensor([1]), 5)
    total = 3 * math.e + 2
    assert got.logps.item() == pytest.approx(-math.log(total), abs=1e-14)
    assert got.ranks.item() == 3
    assert got.entropies.item() == pytest.approx(math.log(total) - 3 * math.e / total, abs=1e-14)
    assert got.likely.ids.tolist() == [[0, 1, 2]] or got.likely.ids.tolist() == [[0, 2, 1]]
    assert got.likely.logps[0, 0].item() == pytest.approx(1 - math.log(total), abs=1e-14)
    # Of what both have, the policy says e, 1, 1 in e + 2.
    share = math.e / (math.e + 2)
    assert got.kls.item() == pytest.approx(share * 1 - math.log(math.e + 2) + math.log(3), abs=1e-14)


def test_a_token_that_one_model_lacks_is_an_error():
    policy, reference = make("head")[0], make("head", 640, seed=1)[0]
    taken = TARGETS.clone()
    taken[4] = 650
    for pair in ((policy, reference), (reference, policy)):
        with pytest.raises(UserError, match="token 650, and one of the two models knows only 640"):
            read_out(*pair, taken, 2)


def barred(logits, entries):
    logits = logits.clone()
    logits[:, entries] = -torch.inf
    return logits


def test_entries_that_can_never_be_taken_add_nothing():
    """A whole tile of −∞, as models give for unused entries: no NaN comes of it, in either model or both."""
    z, z_ref = make("full")[1], make("full", seed=1)[1]
    taken = torch.where((TARGETS >= 256) & (TARGETS < 512), 5, TARGETS)
    tile = slice(256, 512)
    for own, ref in ((barred(z, tile), barred(z_ref, tile)), (barred(z, tile), z_ref), (z, barred(z_ref, tile))):
        got, want = read_out(FullLogits(own), FullLogits(ref), taken, 2), truth(own, ref, taken, 2)
        assert_same(got, want, 1e-12)
    assert want.kls.isinf().all()
    assert want.ref_kls.isfinite().all()
    bias = torch.zeros(V, dtype=torch.float64)
    bias[tile] = -torch.inf
    logits = make("head")[0]
    head = HeadLogits(logits.hidden, Head(logits.head.weight, bias))
    assert_same(read_out(head, FullLogits(z_ref), taken, 2), truth(barred(z, tile), z_ref, taken, 2), 1e-12)


def test_the_first_tile_may_be_barred_too():
    z = barred(make("full")[1], slice(0, 256))
    taken = TARGETS.clamp(min=256)
    assert_same(read_out(FullLogits(z), FullLogits(z), taken, 2), truth(z, z, taken, 2), 1e-12)


def test_more_alternatives_than_can_be_taken_are_of_probability_0():
    z = barred(make("full")[1], slice(2, V))
    got = read_out(FullLogits(z), FullLogits(z), torch.zeros(N, dtype=torch.long), 4)
    assert got.likely.logps[:, :2].isfinite().all()
    assert got.likely.logps[:, 2:].isneginf().all()


def test_logits_far_from_zero_do_not_overflow():
    (policy, z), (reference, z_ref) = (make("full", seed=i, dtype=torch.float32) for i in range(2))
    z, z_ref = z * 100 + 500, z_ref * 100 - 500
    got = read_out(FullLogits(z), FullLogits(z_ref), TARGETS, 2)
    want = truth(z.double(), z_ref.double(), TARGETS, 2)
    assert want.logps.min() < -500
    torch.testing.assert_close(got.logps.double(), want.logps, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(got.kls.double(), want.kls, rtol=1e-4, atol=1e-2)
    assert torch.equal(got.ranks, want.ranks)
    assert policy.shape == reference.shape == (N, V)


@pytest.mark.parametrize("kind", ["bias softcap", "full"])
def test_log_probs_alone_are_differentiable_and_the_same(kind):
    logits, z = make(kind)
    assert isinstance(logits, Logits)
    torch.testing.assert_close(logits.logps(TARGETS), z.log_softmax(-1)[torch.arange(N), TARGETS], rtol=0, atol=1e-12)
    if kind != "full":
        assert logits.logps(TARGETS).requires_grad
        torch.testing.assert_close(logits.logps(TARGETS), token_logps(logits.hidden, logits.head, TARGETS))


# Through models ------------------------------------------------------------------------------------------------------

PADDED = VOCAB_SIZE + 12
# Eager attention of Gemma 2 gives NaN for padding in float64.
DTYPES = {"gemma2": torch.float32}


def random_groups():
    """Return a pair and a single response; some tokens are not the policy's (never the first)."""
    rng = np.random.default_rng(3)

    def response(n, role="plain"):
        mask = rng.random(n) < 0.8
        mask[0] = True
        return TokenResponse(rng.integers(0, VOCAB_SIZE, n).astype(np.int32), mask, True, role)

    def prompt(n):
        return rng.integers(0, VOCAB_SIZE, n).astype(np.int32)

    return [
        TokenGroup(prompt(11), (response(12, "chosen"), response(3, "rejected")), True, "row 1"),
        TokenGroup(prompt(1), (response(7),), False, "row 2"),
    ]


GROUPS = random_groups()
BATCH = pack(GROUPS)


def own_logits(model):
    """Return the logits at every target from the model's own forward, one unpadded row at a time."""
    found = []
    with torch.no_grad():
        for group in GROUPS:
            for response in group.responses:
                row = torch.from_numpy(np.concatenate((group.prompt_ids, response.ids)).astype(np.int64))
                places = torch.from_numpy(np.flatnonzero(response.mask)) + len(group.prompt_ids)
                found.append(model(input_ids=row[None], use_cache=False).logits[0, places - 1])
    return torch.cat(found).double()


@pytest.fixture(scope="module")
def models():
    """Return (policy, reference, the truth) by family: the reference has other weights and a padded vocabulary."""
    known = {}

    def of(family):
        if family not in known:
            dtype = DTYPES.get(family, torch.float64)
            pair = tiny_model(family, dtype=dtype), tiny_model(family, seed=1, vocab_size=PADDED, dtype=dtype)
            known[family] = (*pair, truth(*map(own_logits, pair), BATCH.targets, 5))
        return known[family]

    return of


def _case(family, way):
    """Every family goes through the block-sparse kernel in one way, or with a window, or with capped scores.

    By default there is one with a window and one with capped scores.
    """
    slow = way == "flex" and family not in ("mistral", "gemma2")
    return pytest.param(family, way, marks=pytest.mark.slow if slow else ())


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("family", "way"),
    [_case(f, way) for f in FAMILIES for way in WAYS if FAMILIES[f].shares_prefix or not WAYS[way].shares_prompts],
)
def test_two_models_read_against_each_other_are_what_each_says_by_itself(family, way, models):
    policy, reference, want = models(family)
    lms = PackedLM(policy, way), PackedLM(reference, way)
    got = ReferencedPolicy(*lms).read(BATCH, 5)
    tolerance = {"gemma2": 1e-4, "mamba": 1e-4}.get(family, 1e-5)
    assert_same(got, want, tolerance)
    assert want.kls.min() > 0.01
    with torch.no_grad():
        torch.testing.assert_close(got.logps, lms[0](BATCH).logps, rtol=0, atol=1e-5, check_dtype=False)
    for lm in lms:
        lm.release()


@pytest.mark.parametrize("ways", [("segments", "full"), ("plain", "segments")])
def test_the_two_may_go_different_ways(ways, models):
    policy, reference, want = models("qwen3")
    lms = PackedLM(policy, ways[0]), PackedLM(reference, ways[1])
    assert_same(ReferencedPolicy(*lms).read(BATCH, 5), want, 1e-5)
    for lm in lms:
        lm.release()


@pytest.mark.parametrize("way", ["segments", "plain", "full"])
def test_with_its_adapter_off_the_policy_is_its_own_reference(way):
    adapted = add_lora(tiny_model("llama", dtype=torch.float64), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    want = truth(own_logits(adapted), own_logits(tiny_model("llama", dtype=torch.float64)), BATCH.targets, 3)
    got = ReferencedPolicy(PackedLM(adapted, way), None).read(BATCH, 3)
    assert_same(got, want, 1e-5)
    assert (want.logps - want.ref_logps).abs().max() > 0.05
    again = ReferencedPolicy(PackedLM(adapted, way), None).read(BATCH, 3)
    assert torch.equal(again.logps, got.logps)


@pytest.mark.parametrize(("entries", "columns", "k"), [(2048, 60, 5), (1999, 7, 1), (90, 5, 5), (700, 0, 3)])
@pytest.mark.parametrize("step", [0.0, 0.25], ids=["distinct", "tied"])
def test_the_highest_of_a_tile_are_those_that_topk_gives(entries, columns, k, step):
    """Found by blocks; also among equals, where topk itself decides, and where nothing can be taken."""
    tile = torch.randn(entries, columns, generator=torch.Generator().manual_seed(entries))
    tile = torch.round(tile / step) * step if step else tile
    tile[10 : entries // 2] = -torch.inf
    values, places = highest_of(tile, k)
    want = tile.T.topk(k, dim=1)
    assert torch.equal(values, want.values)
    assert torch.equal(places, want.indices)
