"""One truth for every way and every architecture: the model's own forward on single unpadded rows."""

from dataclasses import replace

import builders
import pytest
import torch
from builders import assert_same, measure, own_logps, random_groups, result_of, truth_of
from examples import cases
from tiny import FAMILIES, VOCAB_SIZE, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.models.forward import attention, proof
from tokenq.models.forward.packed_lm import WAYS, PackedLM, bare
from tokenq.models.forward.proof import fastest_exact, prove
from tokenq.models.load import add_lora

# Eager attention of Gemma 2 gives NaN for padding in float64.
DTYPES = {"gemma2": torch.float32}
# Bloom and Mamba compute parts in float32 whatever the weights are. Most others do so in their norms only: the same
# numbers for the same token, but gradients that are summed in another order.
LOGP_TOLERANCES = {"gemma2": 2e-5, "bloom": 1e-6, "mamba": 1e-5}
GRADIENT_TOLERANCES = {"gpt_neox": 1e-10, "gpt2": 1e-10, "phi": 1e-10, "opt": 1e-10, "gemma2": 2e-5, "mamba": 1e-5}
SHARING = [family for family, row in FAMILIES.items() if row.shares_prefix]
OTHERS = [family for family, row in FAMILIES.items() if not row.shares_prefix]
GROUPS = random_groups()
MAX_LENGTH = 64

each_family = pytest.mark.parametrize("family", FAMILIES)
quiet_flex = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def make(family):
    return tiny_model(family, dtype=DTYPES.get(family, torch.float64))


def logp_tolerance(family):
    return LOGP_TOLERANCES.get(family, 1e-10)


def tolerances(family):
    return logp_tolerance(family), GRADIENT_TOLERANCES.get(family, 1e-6)


@pytest.fixture(scope="module")
def truths():
    """Return the truth by family, computed when it is first asked for."""
    known = {}

    def truth(family):
        if family not in known:
            known[family] = truth_of(make(family), GROUPS)
        return known[family]

    return truth


@pytest.mark.parametrize(
    ("family", "way"),
    [(f, way) for f in FAMILIES for way in ("segments", "plain", "full") if way != "segments" or f in SHARING],
)
def test_log_probs_and_gradients_are_the_models_own(family, way, truths):
    lm = PackedLM(make(family), way)
    assert_same(result_of(lm, GROUPS), truths(family), *tolerances(family))


@quiet_flex
@pytest.mark.parametrize("family", cases(["gpt_neox", "mistral", "gemma3", "gemma2"], ["mistral", "gemma2"]))
def test_the_block_sparse_kernel_gives_the_same_log_probs(family, truths):
    """By default one with a window and one with capped scores."""
    lm = PackedLM(make(family), "flex")
    with torch.no_grad():
        logps = lm(pack(GROUPS)).logps
    torch.testing.assert_close(logps, truths(family).logps, rtol=0, atol=logp_tolerance(family), check_dtype=False)


@pytest.mark.gpu
@pytest.mark.parametrize("family", SHARING)
def test_the_compiled_kernel_gives_the_same_log_probs_and_gradients(family):
    model = tiny_model(family).cuda()
    groups = random_groups(holes=False)
    batch = pack(groups).to("cuda")
    plain = measure(model, PackedLM(model, "full")(batch).logps, groups)
    model = tiny_model(family).cuda()
    got = measure(model, PackedLM(model, "flex")(batch).logps, groups)
    assert_same(got, plain, 2e-3)


@each_family
def test_the_fastest_exact_way_is_found(family, truths):
    lm, warnings = fastest_exact(make(family), max_length=MAX_LENGTH)
    if family in SHARING:
        assert (lm.way, warnings) == ("segments", [])
    else:
        assert lm.way == "plain"
        assert warnings[0].startswith(f"{type(lm.model).__name__}: 'segments' is not exact")
        assert warnings[-1] == "Using 'plain' instead."
    torch.testing.assert_close(
        lm(pack(GROUPS)).logps.detach(), truths(family).logps, rtol=0, atol=logp_tolerance(family), check_dtype=False
    )


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mistral"])
def test_what_shares_a_row_does_not_matter(family, truths):
    """Each group alone in its row, and the groups in another order, give the numbers of the packed row."""
    lm = PackedLM(make(family), "segments")
    with torch.no_grad():
        apart = torch.cat([lm(pack([group])).logps for group in GROUPS])
        backwards = lm(pack(GROUPS[::-1])).logps
    torch.testing.assert_close(apart, truths(family).logps, rtol=0, atol=1e-10)
    lengths = [sum(int(r.mask.sum()) for r in group.responses) for group in GROUPS]
    turned = torch.cat(backwards.split(lengths[::-1])[::-1])
    torch.testing.assert_close(turned, truths(family).logps, rtol=0, atol=1e-10)


@each_family
def test_gradient_checkpointing_changes_no_gradient(family, truths):
    model = make(family)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    lm = PackedLM(model, "segments" if family in SHARING else "plain")
    assert_same(result_of(lm, GROUPS), truths(family), *tolerances(family))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "gemma3", "qwen2", "llama", "gpt_neox", "phi", "bloom"])
def test_accumulating_in_place_gives_the_gradients_of_autograd(family, checkpointing):
    """Over two micro-batches, for tied and untied heads, with a bias (phi) and tied without sharing (bloom)."""
    halves = random_groups(seed=1), random_groups(seed=2)
    way = "segments" if family in SHARING else "plain"
    results = []
    for in_place in (False, True):
        model = make(family)
        lm = PackedLM(model.train(), way)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if in_place:
            lm.accumulate_in_place()
            assert lm.grad_in_place
        for groups in halves:
            builders.dpo_loss(lm(pack(groups)).logps, groups).backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
    plain, in_place = results
    for name, gradient in plain.items():
        assert in_place[name].layout == torch.strided
        torch.testing.assert_close(in_place[name], gradient, rtol=1e-7, atol=1e-9, msg=name)
    model.zero_grad()
    assert lm.head().weight_grad.abs().sum() == 0
    with torch.no_grad():
        assert lm.head().weight_grad is None


def test_a_frozen_head_is_left_alone_by_accumulating_in_place():
    model = tiny_model("llama")
    model.get_output_embeddings().weight.requires_grad_(False)
    lm = PackedLM(model)
    lm.accumulate_in_place()
    result_of(lm, GROUPS)
    assert not lm.grad_in_place
    assert model.get_output_embeddings().weight.grad is None


def with_lora(family, **changed):
    """Return a model with an adapter whose B is not zero, so that it does something."""
    torch.manual_seed(0)
    options = {"rank": 3, "alpha": 6.0, "dropout": 0.0, "targets": "all-linear"} | changed
    model = add_lora(make(family), **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")
@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "gemma3", "opt", "bloom"])
def test_with_an_adapter_log_probs_and_gradients_are_the_models_own(family, truths):
    model = with_lora(family)
    truth = truth_of(model, GROUPS)
    lm, _ = fastest_exact(model, max_length=MAX_LENGTH)
    assert lm.way == ("segments" if family in SHARING else "plain")
    assert_same(result_of(lm, GROUPS), truth, *tolerances(family))
    assert all("lora_" in name for name in truth.gradients)
    assert (truth.logps - truths(family).logps).abs().max() > 0.1


def test_an_adapter_on_the_head_makes_it_more_than_linear():
    """Only the model's own logits hold then, and nobody has to know that."""
    model = with_lora("llama", targets=["lm_head", "q_proj"])
    truth = truth_of(model, GROUPS)
    lm, warnings = fastest_exact(model, max_length=MAX_LENGTH)
    assert lm.way == "full"
    assert "not a linear layer" in warnings[0]
    assert_same(result_of(lm, GROUPS), truth, 1e-10, 1e-6)


def test_logits_that_are_scaled_after_the_head_are_noticed():
    """Granite divides its logits by a number that no other family has: the response-only head is wrong for it."""
    size = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = AutoConfig.for_model("granite", vocab_size=288, logits_scaling=0.05, pad_token_id=0, **size)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    truth = truth_of(model, GROUPS)
    lm, warnings = fastest_exact(model, max_length=MAX_LENGTH)
    assert (lm.way, len(warnings)) == ("full", 3)
    assert_same(result_of(lm, GROUPS), truth, 1e-10, 1e-6)


def blind_to_the_first_token(mask):
    mask[:, 0] = False
    return mask


def sees_the_next_token(mask):
    return mask | mask.roll(1, 1)


BROKEN_MASKS = {"blind to the first token": blind_to_the_first_token, "sees the next token": sees_the_next_token}


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        pytest.param(family, dtype, marks=() if family == "gpt2" or dtype == torch.float32 else pytest.mark.slow)
        for family in ("gpt2", "llama", "gemma3", "gemma2", "qwen2")
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ],
)
@pytest.mark.parametrize("broken", BROKEN_MASKS)
def test_a_wrong_mask_is_caught(family, broken, dtype, monkeypatch):
    """By default every family in single precision, and one in half precision too."""
    right = attention.Layout.mask

    def wrong(self, length, prefix, window):
        mask = right(self, length, prefix, window).clone()
        return BROKEN_MASKS[broken](mask) if prefix else mask

    monkeypatch.setattr(attention.Layout, "mask", wrong)
    lm, warnings = fastest_exact(tiny_model(family, dtype=dtype), max_length=MAX_LENGTH)
    assert lm.way == "plain"
    assert "'segments' is not exact (" in warnings[0]
    assert "times the tolerance" in warnings[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", cases(SHARING, ["gpt_neox", "gpt2", "gemma3", "gemma2"]))
def test_rounding_in_half_precision_is_no_mistake(family, dtype):
    """The mean error lies well below what another rounding of the embeddings does to the model itself.

    By default in families with rotary and learned positions, windows and capped scores.
    """
    model = tiny_model(family, dtype=dtype)
    for way in ("segments", "plain", "full"):
        lm = PackedLM(model, way)
        assert prove(lm)[0] < 0.6
        lm.release()
    assert not model.get_input_embeddings()._forward_hooks


def test_a_model_whose_rounding_is_large_is_measured_by_its_own(monkeypatch):
    """Embeddings times 30: log-probs move by far more than a tenth through rounding alone."""
    model = tiny_model("gpt2", dtype=torch.bfloat16)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(30)
    lm, warnings = fastest_exact(model, max_length=MAX_LENGTH)
    assert (lm.way, warnings) == ("segments", [])


def positions_that_run_on(batch):
    return torch.arange(len(batch.input_ids))


def positions_one_too_far(batch):
    first = [s.start for s in batch.segments if s.prefix_start != s.prefix_stop]
    moved = batch.position_ids.clone()
    for segment in batch.segments:
        if segment.start in first:
            moved[segment.start : segment.stop] += 1
    return moved


BROKEN_POSITIONS = {"running on": positions_that_run_on, "one too far": positions_one_too_far}


@pytest.mark.parametrize("broken", BROKEN_POSITIONS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "opt", "gpt_neox"])
def test_wrong_positions_are_caught(family, broken, monkeypatch):
    def wrong(groups):
        batch = pack(groups)
        return replace(batch, position_ids=BROKEN_POSITIONS[broken](batch))

    monkeypatch.setattr(proof, "pack", wrong)
    lm, _ = fastest_exact(tiny_model(family), max_length=MAX_LENGTH)
    assert lm.way == "plain"


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_window_that_is_one_too_long_is_caught_where_rows_are_longer_than_it(family, monkeypatch):
    right = attention.Layout.mask

    def wrong(self, length, prefix, window):
        return right(self, length, prefix, None if window is None else window + 1)

    monkeypatch.setattr(attention.Layout, "mask", wrong)
    lm = PackedLM(tiny_model(family), "segments")
    assert prove(lm)[0] > 5


def test_a_window_of_thousands_of_tokens_is_proven_on_short_rows(monkeypatch):
    """The window is made small for the proof; where it is then seen otherwise, longer rows go one by one."""
    model = tiny_model("mistral")
    lm, _ = fastest_exact(long_window(model))
    assert (lm.way, lm.limit) == ("segments", None)
    lm.release()
    right = attention.Layout.mask

    def wrong(self, length, prefix, window):
        return right(self, length, prefix, None if window is None else window + 1)

    monkeypatch.setattr(attention.Layout, "mask", wrong)
    lm, _ = fastest_exact(model)
    assert (lm.way, lm.limit) == ("segments", 4096)
    assert {layer.self_attn.sliding_window for layer in model.model.layers} == {model.config.sliding_window} == {4096}


def long_window(model):
    """Return a model whose window is longer than the rows of any test."""
    model.config.sliding_window = 4096
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 4096
    return model


def test_weights_without_a_number_are_an_error_and_not_an_agreement():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="No way of batching reproduces this model's own forward"):
        fastest_exact(model)


@pytest.mark.parametrize("training", [True, False])
def test_a_proof_leaves_the_model_as_it_was(training):
    model = tiny_model("gemma3").train(training)
    own = model.config._attn_implementation
    lm = PackedLM(model, "segments")
    prove(lm)
    assert model.training == training
    assert model.config._attn_implementation == attention.SEGMENTS
    assert all(p.grad is None for p in model.parameters())
    assert lm.release() is model
    assert model.config._attn_implementation == own
    with torch.no_grad():
        torch.testing.assert_close(own_logps(model, GROUPS), own_logps(tiny_model("gemma3"), GROUPS))


def test_what_has_failed_its_proof_leaves_no_trace():
    model = tiny_model("bloom")
    own = model.config._attn_implementation
    lm, _ = fastest_exact(model)
    assert lm.own_attention == own
    assert model.config._attn_implementation == own


def test_a_proof_does_not_see_dropout():
    model = tiny_model("gpt2")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    lm, warnings = fastest_exact(model.train(), max_length=MAX_LENGTH)
    assert (lm.way, warnings) == ("segments", [])


def test_a_chosen_way_is_proven_alone():
    lm, warnings = fastest_exact(tiny_model("llama"), "plain")
    assert (lm.way, warnings) == ("plain", [])
    lm, warnings = fastest_exact(tiny_model("bloom"), "segments")
    assert lm.way == "full"
    assert len(warnings) == 2


def test_unknown_ways_and_models_are_refused():
    with pytest.raises(UserError, match="Did you mean 'segments'"):
        PackedLM(tiny_model("llama"), "segment")
    with pytest.raises(UserError, match="Unknown attention 'fast'"):
        fastest_exact(tiny_model("llama"), "fast")
    with pytest.raises(UserError, match="Linear is no transformers model"):
        bare(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("way", ["plain", "full"])
def test_rows_that_a_type_does_not_take_are_refused(way):
    """Reformer reads rows of any length, and in training only those of whole chunks."""
    size = {"hidden_size": 16, "num_attention_heads": 2, "attention_head_size": 8, "feed_forward_size": 16}
    config = AutoConfig.for_model(
        "reformer",
        **size,
        vocab_size=VOCAB_SIZE,
        attn_layers=["local"],
        local_attn_chunk_length=4,
        axial_pos_embds=False,
        is_decoder=True,
    )
    lm = PackedLM(AutoModelForCausalLM.from_config(config), way)
    assert lm.eval()(pack(GROUPS)).logps.isfinite().all()
    with pytest.raises(UserError, match=r"refuses rows of 26 tokens: If training, .* multiple .* 4"):
        lm.train()(pack(GROUPS))


def test_the_work_of_a_batch_is_counted_by_hand():
    """Groups of 13 + 14 + 1, 3 + 4 + 6 and 1 + 2 + 9 tokens; the last token of a response is no input.

    Shared: 13 + 13 + 0, 3 + 3 + 5, 1 + 1 + 8 = 47 positions. Padded: one row for each response that has inputs of its
    own, 13 + 13, 3 + 3, 3 + 5, 1 + 1, 1 + 8 = 51 tokens in five rows of 26. (The one-token response is predicted by the
    end of its prompt, which is in the first row.)
    """
    batch = pack(GROUPS)
    model = tiny_model("llama")
    assert PackedLM(model, "segments").work(batch) == (47, 47)
    assert PackedLM(model, "plain").work(batch) == (51, 130)
    assert {name for name, way in WAYS.items() if way.shares_prompts} == {"flex", "segments"}


def test_a_prompt_whose_responses_all_have_one_token_has_a_row_of_its_own():
    groups = random_groups(((5, (1, 1)), (2, (3, 1))), seed=3)
    model = tiny_model("llama", dtype=torch.float64)
    want = own_logps(model, groups)
    for way in ("segments", "plain", "full"):
        lm = PackedLM(model, way)
        torch.testing.assert_close(lm(pack(groups)).logps, want, rtol=0, atol=1e-10)
        lm.release()


def test_soft_capped_logits_stay_below_the_cap():
    """Logits within ±5 over 288 tokens: no log-prob below −10 − log 288 = −15.7; without the cap some are."""
    model = tiny_model("gemma2")
    with torch.no_grad():
        model.model.norm.weight.add_(20)
        capped = PackedLM(model, "segments")(pack(GROUPS)).logps
        model.config.final_logit_softcapping = None
        free = PackedLM(model, "segments")(pack(GROUPS)).logps
    assert capped.min() > -15.7 > free.min()
