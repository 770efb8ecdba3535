"""Rows on both sides of a length at which a model treats them otherwise, each held to the model's own forward."""

import copy

import pytest
import torch
from builders import assert_same, own_logps, random_groups, result_of, truth_of
from tiny import VOCAB_SIZE, tiny_model
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from tokenq.core.packing import pack
from tokenq.models.forward.lengths import SHORT, length_limit, short_lengths
from tokenq.models.forward.proof import fastest_exact
from tokenq.models.forward.stepper import ModelStepper, Rereading, writer
from tokenq.models.identity import identify

LIMIT = 24
"""Length at which the models of this file change."""

SHAPES = ((5, (4, 1)), (LIMIT, (6, 9)), (LIMIT - 4, (4, 5)))
"""Rows below, beyond, and one at the limit beside one beyond it."""

_SIZE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_SIZE |= {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = {**_SIZE, "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 128}
_SPARSE = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8}
_SPARSE |= {"qk_nope_head_dim": 8, "v_head_dim": 16, "index_n_heads": 2, "index_head_dim": 16, "index_topk": LIMIT}
_SPARSE |= {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
_SPARSE |= {"n_group": 1, "topk_group": 1, "n_shared_experts": 1, "max_position_embeddings": 128}
_BLOCKS = {"index_n_heads": 2, "index_head_dim": 12, "index_block_size": 8, "index_topk_blocks": LIMIT // 8}
_BLOCKS |= {"layer_types": ["full_attention", "minimax_m3_sparse"], "num_local_experts": 4, "num_experts_per_tok": 2}
_LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": LIMIT}
_LONG |= {"short_factor": [1.0] * 6, "long_factor": [4.0] * 6}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}

KINDS = {
    "sparse keys": ("glm_moe_dsa", {**_SIZE, **_SPARSE}),
    "sparse blocks": ("minimax_m3_vl_text", {**_GROUPED, **_BLOCKS}),
    "kept window": ("doge", {k: v for k, v in _GROUPED.items() if k != "head_dim"} | {"keep_window_size": LIMIT}),
    "long rotary": (
        "phi3",
        {k: v for k, v in _GROUPED.items() if k != "head_dim"}
        | {"original_max_position_embeddings": LIMIT, "rope_parameters": _LONG},
    ),
    "dynamic rotary": ("llama", {**_GROUPED, "max_position_embeddings": LIMIT, "rope_parameters": _DYNAMIC}),
}
KINDS = {kind: made for kind, made in KINDS.items() if made[0] in CONFIG_MAPPING}
"""What depends on length, in the types that transformers has: which keys are seen, and frequencies taken from the
longest row of a batch."""


def make(kind):
    """Return a tiny model of a kind, drawn wide."""
    model_type, options = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **options), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return model.eval()


def truth(kind, groups):
    """Return the log-probs of each row by a model that has seen no other."""
    model = make(kind)
    with torch.no_grad():
        return torch.cat(
            [
                own_logps(copy.deepcopy(model), [type(group)(group.prompt_ids, (response,), False, "row")])
                for group in groups
                for response in group.responses
            ]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_on_both_sides_are_what_the_model_says_of_each(kind):
    groups = random_groups(SHAPES)
    model = make(kind)
    assert length_limit(model) == LIMIT
    lm, _ = fastest_exact(model, max_length=128)
    want = truth(kind, groups)
    with torch.no_grad():
        for batch in (groups, groups[:1], groups[1:], groups):
            got = lm(pack(batch)).logps
            rows = [r for group in groups for r in group.responses]
            kept = [r for group in batch for r in group.responses]
            parts = dict(zip(map(id, rows), want.split([int(r.mask.sum()) for r in rows]), strict=True))
            torch.testing.assert_close(got, torch.cat([parts[id(r)] for r in kept]), rtol=0, atol=1e-4)


def test_gradients_of_rows_that_go_one_by_one_are_the_model_s_own():
    groups = random_groups(((5, (4, 1)), (LIMIT, (6, 9))))
    model = make("sparse keys")
    want = truth_of(model, groups)
    lm, _ = fastest_exact(model, max_length=128)
    assert_same(result_of(lm, groups), want, 1e-4, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_grows_beyond_the_limit_is_gone_on_with_exactly(kind):
    model = make(kind)
    lm, _ = fastest_exact(model, max_length=128)
    prompts = [list(range(3, 3 + LIMIT - 3)), list(range(40, 46))]
    stepper = ModelStepper(lm)
    at, texts = stepper.start(prompts), [list(prompt) for prompt in prompts]
    for step in range(8):
        for row, text in enumerate(texts):
            with torch.no_grad():
                want = copy.deepcopy(make(kind))(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(at.logps[row], want.log_softmax(-1), rtol=0, atol=1e-4, check_dtype=False)
        tokens = torch.tensor([100 + step, 200 + step])
        at = stepper.step(at.state, torch.tensor([0, 1]), tokens)
        texts = [[*text, int(token)] for text, token in zip(texts, tokens, strict=True)]


@torch.no_grad()
def test_branches_from_both_sides_of_the_limit_are_put_together():
    lm, _ = fastest_exact(make("long rotary"), max_length=8)
    assert lm.limit == LIMIT
    steps = writer(lm)
    prompt = list(range(3, 3 + LIMIT))
    _, below = steps.start([prompt])
    _, above = steps.step(below, torch.tensor([0]), torch.tensor([7]))
    state = steps.gather([(above, 0), (below, 0)])
    logps, _ = steps.step(state, torch.tensor([0, 1]), torch.tensor([9, 9]))
    for row, text in enumerate(([*prompt, 7, 9], [*prompt, 9])):
        with torch.no_grad():
            want = make("long rotary")(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(logps[row], want, rtol=0, atol=1e-4, check_dtype=False)


def test_steps_that_do_not_say_what_whole_rows_say_are_not_taken():
    """DiffLlama attends twice in each layer, and keeps the keys of one of the two."""
    config = AutoConfig.for_model("diffllama", **_GROUPED)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    lm, _ = fastest_exact(model)
    assert isinstance(writer(lm), Rereading)
    llama, _ = fastest_exact(tiny_model("llama"))
    assert not isinstance(writer(llama), Rereading)


@pytest.mark.parametrize("kind", KINDS)
def test_a_proof_leaves_lengths_as_they_were(kind):
    model = make(kind)
    before, numbers = identify(model, "x"), copy.deepcopy(model.config.to_dict())
    with short_lengths(model):
        assert length_limit(model) is None
        assert str(SHORT) in str(model.config.to_dict())
    fastest_exact(model)[0].release()
    assert identify(model, "x") == before
    assert model.config.to_dict() == numbers
