"""Tiny models and tokenizers: that they are what the table says, the same each time, and sensitive to mistakes."""

import math

import pytest
import torch
from tiny import CHATML, FAMILIES, VOCAB_SIZE, WINDOW, tiny_model, tiny_tokenizer
from transformers import AutoTokenizer

from tokenq.demo.tokenizer import PIECES
from tokenq.errors import UserError

each_family = pytest.mark.parametrize("family", FAMILIES)
TEXT = "The cat sat on the mat.\nYes, we can do it: a bird; it is 1 2 3!"


def ids_of(length: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, VOCAB_SIZE, (1, length), generator=torch.Generator().manual_seed(seed))


def logps_of(model, ids, **more):
    with torch.no_grad():
        return model(input_ids=ids, **more).logits.log_softmax(-1)


@each_family
def test_the_same_seed_gives_the_same_model_and_leaves_the_global_one_alone(family):
    state = torch.random.get_rng_state()
    first, second, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@each_family
def test_double_precision_is_the_same_model_and_differentiable(family):
    single, double = tiny_model(family), tiny_model(family, dtype=torch.float64)
    assert all(torch.equal(a.double(), b) for a, b in zip(single.parameters(), double.parameters(), strict=True))
    ids = ids_of(24)
    for model in (single, double):
        logits = model(input_ids=ids).logits
        logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None]).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.allclose(logps_of(single, ids).double(), logps_of(double, ids).double(), atol=1e-4)


@each_family
def test_the_models_are_small_and_far_from_uniform(family):
    model = tiny_model(family)
    logps = logps_of(model, ids_of(40))
    entropy = -(logps.exp() * logps).sum(-1).mean().item()
    assert entropy < math.log(VOCAB_SIZE) - 0.5
    assert sum(p.numel() for p in model.parameters()) < 100_000
    assert model.config.num_hidden_layers in (2, 3)
    assert logps.shape[-1] == VOCAB_SIZE


@each_family
def test_a_token_changes_what_follows_it_and_nothing_before(family):
    model, ids = tiny_model(family, dtype=torch.float64), ids_of(20)
    changed = ids.clone()
    changed[0, 10] = 5 if ids[0, 10] != 5 else 6
    moved = (logps_of(model, changed) - logps_of(model, ids)).abs()[0].amax(-1)
    assert moved[:10].max() == 0
    assert moved[11:15].min() > 0.02


@each_family
def test_the_table_says_the_truth_about_sharing_a_prompt(family):
    """One row [prompt | a | b] under an explicit mask and restarted positions, against two ordinary rows.

    To 1e-5 and not better, because some families take their softmax in float32 whatever the weights are.
    """
    model, prompt, a, b = tiny_model(family, dtype=torch.float64), *(ids_of(n, seed=n) for n in (3, 2, 4))
    row = torch.cat((prompt, a, b), 1)
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    seen[5:, 3:5] = False
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    positions = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 5, 6]])
    plain_a = logps_of(model, torch.cat((prompt, a), 1))[0, 2:]
    plain_b = logps_of(model, torch.cat((prompt, b), 1))[0, 3:]
    try:
        shared = logps_of(model, row, attention_mask=mask, position_ids=positions)[0]
        error = max((shared[2:5] - plain_a).abs().max().item(), (shared[5:] - plain_b).abs().max().item())
    except (RuntimeError, ValueError, IndexError):
        error = math.inf
    assert (error < 1e-5) == FAMILIES[family].shares_prefix


@pytest.mark.parametrize(("family", "layers"), [("mistral", 2)])
def test_a_sliding_window_ends_where_it_should(family, layers):
    """Through two layers of windows of 8 a token reaches 2 · 7 = 14 places ahead, and not 15."""
    model, ids = tiny_model(family, dtype=torch.float64), ids_of(30)
    changed = ids.clone()
    changed[0, 5] = 5 if ids[0, 5] != 5 else 6
    moved = (logps_of(model, changed) - logps_of(model, ids)).abs()[0].amax(-1)
    reach = layers * (WINDOW - 1)
    assert moved[5 + reach] > 0
    assert moved[5 + reach + 1 :].max() == 0


def test_each_family_has_the_trait_that_it_is_here_for():
    models = {family: tiny_model(family) for family in FAMILIES}
    tied = {f for f, m in models.items() if m.get_output_embeddings().weight is m.get_input_embeddings().weight}
    assert {"gpt2", "qwen2", "qwen3", "gemma2", "gemma3", "opt"} <= tied
    assert not {"gpt_neox", "llama", "mistral", "phi", "olmo2"} & tied
    assert models["phi"].get_output_embeddings().bias.abs().min() > 0
    names = {family: dict(model.named_parameters()) for family, model in models.items()}
    assert "model.layers.0.self_attn.q_proj.bias" in names["qwen2"]
    assert "model.layers.0.self_attn.q_norm.weight" in names["qwen3"]
    assert names["llama"]["model.layers.0.self_attn.k_proj.weight"].shape == (24, 48)
    assert names["opt"]["model.decoder.embed_positions.weight"].shape[0] == 256 + 2
    assert models["gpt_neox"].config.rope_parameters["partial_rotary_factor"] == 0.5
    assert models["gemma3"].config.layer_types.count("full_attention") == 1
    assert models["gemma3"].config.sliding_window == models["gemma2"].config.sliding_window == WINDOW
    assert models["gemma2"](input_ids=ids_of(20)).logits.abs().max() < 5.0


def test_an_unknown_family_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'gemma3'"):
        tiny_model("gema3")


@pytest.mark.parametrize("bos", ["added", "known", "absent"])
@pytest.mark.parametrize("kind", ["words", "bytes", "bpe"])
def test_text_comes_back_and_a_saved_tokenizer_is_the_same(kind, bos, tmp_path):
    made = tiny_tokenizer(kind, bos=bos)
    made.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for tokenizer in (made, loaded):
        ids = tokenizer(TEXT).input_ids
        assert (ids[0] == 1) == (bos == "added")
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids[1:] if bos == "added" else ids) == TEXT
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 2, 3)
        assert tokenizer.bos_token_id == (None if bos == "absent" else 1)
        assert len(tokenizer) <= VOCAB_SIZE
    assert loaded(TEXT).input_ids == made(TEXT).input_ids == tiny_tokenizer(kind, bos=bos)(TEXT).input_ids


def test_word_pieces_are_cut_as_the_expression_says():
    tokenizer = tiny_tokenizer("words", bos="known")
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("the cat; it sang\nnow 2.").input_ids)
    assert pieces == ["the", " cat", ";", " it", " sang", "\n", "now", " 2", "."]
    encoded = tokenizer("the cat.", return_offsets_mapping=True)
    assert encoded.offset_mapping == [(0, 3), (3, 7), (7, 8)]
    assert tokenizer("zebra").input_ids == [3]
    assert PIECES.startswith(r"\n")


def test_byte_pairs_merge_over_the_end_of_a_prompt():
    """ "T" + "he" is cut otherwise than "The": what a boundary in token space must cope with."""
    tokenizer = tiny_tokenizer("bpe", bos="known")
    assert len(tokenizer) > len(tiny_tokenizer("bytes"))
    apart = tokenizer("the ").input_ids + tokenizer("cat").input_ids
    assert apart != tokenizer("the cat").input_ids
    assert tokenizer.decode(apart) == "the cat"


def test_a_chat_template_is_kept_and_its_markers_are_tokens(tmp_path):
    tiny_tokenizer("bytes", chat_template=CHATML, eos="<|im_end|>").save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
    assert ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_tokenizer_can_lack_eos_and_an_unknown_kind_is_refused():
    assert tiny_tokenizer(eos=None).eos_token_id is None
    with pytest.raises(UserError, match="Did you mean 'words'"):
        tiny_tokenizer("word")
