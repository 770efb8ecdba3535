"""A model in memory is read as the same model is from its folder, and is what it was afterwards."""

import copy

import pytest
import torch
from builders import own_logps, random_groups
from tiny import tiny_model, tiny_tokenizer
from torch import nn

from tokenq.cache import cache_folder
from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.jobs.inputs import spec_of
from tokenq.jobs.run import Run
from tokenq.models.classifier import open_classifier
from tokenq.models.forward.reward_lm import REWARDS, RewardLM
from tokenq.models.identity import identify
from tokenq.models.limits import named_limits
from tokenq.models.load import add_lora, for_training, load_model, load_whole, same_dtype
from tokenq.models.open import open_model, weights_of
from tokenq.models.stamps import stamped
from tokenq.models.tokenizer import load_tokenizer, open_tokenizer

GROUPS = random_groups()


def spec(model, **more):
    return spec_of(model, tiny_tokenizer(), **more)


def condition(model):
    """All that reading could leave behind."""
    lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        "modules": [(name, id(m), m.training, copy.copy(vars(m))) for name, m in model.named_modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "drops": [m.p for m in model.modules() if isinstance(m, nn.Dropout)],
        "weights": [(id(p), p.data_ptr(), p.requires_grad, p.dtype, p.device, p.grad) for p in model.parameters()],
        "versions": [p._version for p in model.parameters()],
        "config": lm.config.to_dict(),
        "attention": {m.config._attn_implementation for m in lm.modules() if "config" in vars(m)},
    }


def test_it_is_read_as_from_its_folder_to_the_bit(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    named, live = open_model(spec_of(tmp_path)), open_model(spec(model))
    with torch.no_grad():
        assert torch.equal(named.lm(pack(GROUPS)).logps, live.lm(pack(GROUPS)).logps)
    assert live.identity.weights == named.identity.weights == weights_of(spec(model))
    assert (live.identity.path, live.files) == ("LlamaForCausalLM (loaded)", ())
    assert (live.lm.way, live.lm.limit, live.lm.steps) == (named.lm.way, named.lm.limit, named.lm.steps)
    assert named_limits(live.lm.model)[0] == named_limits(named.lm.model)[0]


@pytest.mark.parametrize("make", [lambda: tiny_model("gpt2"), lambda: lora(), lambda: tiny_model("gemma3")])
def test_reading_changes_nothing(make):
    model = make().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda *_: seen.append(1))
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = condition(model)
    opened = open_model(spec(model))
    with torch.no_grad():
        got = opened.lm(pack(GROUPS)).logps
    assert condition(model) == before
    assert seen, "hooks are called"
    model.eval()
    torch.testing.assert_close(got, own_logps(model, GROUPS), rtol=0, atol=1e-4)


def test_no_weight_is_copied_and_none_gathers_gradients():
    model = tiny_model("llama")
    opened = open_model(spec(model))
    assert [p.data_ptr() for p in opened.lm.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert not any(p.requires_grad for p in opened.lm.parameters())


def test_its_weights_are_hashed_each_time_and_nothing_is_kept():
    model = tiny_model("llama")
    first = open_model(spec(model)).identity
    with torch.no_grad():
        next(model.parameters()).add_(0.25)
    second = open_model(spec(model)).identity
    assert first.weights != second.weights == identify(model, "").weights
    folder = cache_folder()
    assert not [*folder.glob("proofs/*"), *folder.glob("identities/*")]


def test_what_somebody_made_of_it_is_proven_and_not_taken_from_its_kind():
    """A layer that is patched says something of the whole row, which no shared prompt gives."""
    assert open_model(spec(tiny_model("llama"))).lm.way == "segments"
    patched = tiny_model("llama")
    layer = patched.model.layers[0]
    layer.register_forward_hook(lambda module, given, out: out + out.cumsum(1))
    assert open_model(spec(patched)).lm.way == "plain"


def test_another_type_is_a_copy(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    before = condition(model)
    opened = open_model(spec(model, dtype="bfloat16"))
    assert {p.dtype for p in opened.lm.parameters()} == {torch.bfloat16}
    assert opened.identity.dtype == "bfloat16"
    assert condition(model) == before
    want = open_model(spec_of(tmp_path, dtype="bfloat16"))
    with torch.no_grad():
        assert torch.equal(opened.lm(pack(GROUPS)).logps, want.lm(pack(GROUPS)).logps)
    with pytest.raises(UserError, match="Unknown dtype 'bf16'"):
        open_model(spec(model, dtype="bf16"))
    with pytest.raises(UserError, match="This machine has no device cuda:99"):
        open_model(spec(model, device="cuda:99"))


def test_types_beside_it_and_for_training():
    half = tiny_model("llama", dtype=torch.bfloat16)
    assert same_dtype(half, spec(tiny_model("llama"))).dtype == "bfloat16"
    assert for_training(spec(half), frozen=False).dtype == "float32"
    assert for_training(spec(half), frozen=True).dtype == "auto"


def lora():
    torch.manual_seed(0)
    model = add_lora(tiny_model("llama"), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def test_an_adapter_in_memory_has_its_base():
    model = lora()
    opened = open_model(spec(model))
    assert opened.identity.weights == identify(model, "").weights
    assert (
        opened.base.weights == identify(model, "", adapter="off").weights == identify(tiny_model("llama"), "").weights
    )
    assert opened.base.weights != opened.identity.weights


@pytest.mark.parametrize("make", [lambda: tiny_model("llama"), lora])
def test_a_copy_to_be_trained_shares_nothing(make):
    model = make()
    before = condition(model)
    own = load_whole(spec(model))
    assert all(p.requires_grad for p in own.parameters())
    assert not {p.data_ptr() for p in own.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert condition(model) == before
    torch.testing.assert_close(own_logps(own, GROUPS), own_logps(model, GROUPS), rtol=0, atol=1e-4)


def test_its_tokenizer_is_its_own_and_is_copied_where_it_is_changed():
    tokenizer = tiny_tokenizer()
    given = spec_of(tiny_model("llama"), tokenizer)
    assert open_tokenizer(given) is tokenizer
    assert load_tokenizer(given, "{{ messages }}").chat_template == "{{ messages }}"
    assert tokenizer.chat_template is None
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="has no end-of-sequence token"):
        open_tokenizer(given)


def test_a_classifier_in_memory():
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = tiny_model("llama").config
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)
    before = condition(model)
    opened = open_model(spec(model), load=open_classifier, proof=REWARDS)
    assert RewardLM(opened.lm).attributes == ["LABEL_0"]
    assert condition(model) == before
    with pytest.raises(UserError, match="is no language model: a LlamaForSequenceClassification has no head of tokens"):
        open_model(spec(model))
    with pytest.raises(UserError, match="LlamaForCausalLM has no linear head that could be read"):
        open_model(spec(tiny_model("llama")), load=open_classifier, proof=REWARDS)


def test_what_belongs_to_files_is_refused():
    for name in ("adapter", "revision"):
        with pytest.raises(UserError, match=f"is in memory: no {name} goes with it"):
            load_model(spec(tiny_model("llama"), **{name: "x"}))


def test_names_of_models(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "run" / "policy")
    own = str(tmp_path / "run" / "policy")
    assert spec_of(Run(tmp_path / "run")).path == spec_of(tmp_path / "run").path == spec_of(own).path == own
    assert spec_of("some/model", dtype="float32").path == "some/model"
    model = tiny_model("llama")
    assert spec_of((model, tiny_tokenizer())).loaded.model is model
    assert stamped(spec_of((model, tiny_tokenizer()))) == ()
    for given in (model, (model, None)):
        with pytest.raises(UserError, match="A loaded model is given without its tokenizer"):
            spec_of(given)
    with pytest.raises(UserError, match="A int is no model"):
        spec_of(7)
    with pytest.raises(UserError, match="A tokenizer is given for a model that is named"):
        spec_of("some/model", tiny_tokenizer())
