"""Loading: what comes back, what is refused and how, and the identity of what was loaded."""

import copy
import json
import re
from dataclasses import replace

import pytest
import torch
from builders import own_logps, random_groups
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_model, tiny_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    Emu3ForCausalLM,
    MllamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tokenq.errors import UserError
from tokenq.models.adapters import is_adapter_folder
from tokenq.models.forward.proof import fastest_exact
from tokenq.models.identity import identify
from tokenq.models.load import ModelSpec, add_lora, load_model, make_deterministic
from tokenq.models.tokenizer import load_tokenizer

GROUPS = random_groups()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a llama and its tokenizer, one with an adapter for it, and models that are not its base."""
    root = tmp_path_factory.mktemp("models")
    for family in ("llama", "qwen3", "phi"):
        tiny_model(family).save_pretrained(root / family)
    tiny_tokenizer().save_pretrained(root / "llama")
    adapter_for(root / "llama").save_pretrained(root / "adapter")
    return root


def adapter_for(base, **changed):
    torch.manual_seed(0)
    options = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": "all-linear"} | changed
    model = add_lora(tiny_model("llama"), **options)
    model.peft_config["default"].base_model_name_or_path = str(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def spec(path, **more):
    return ModelSpec(str(path), **more)


def logps_of(model):
    with torch.no_grad():
        return own_logps(model, GROUPS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_with_the_same_numbers_and_the_same_identity(family, tmp_path):
    made = tiny_model(family)
    made.save_pretrained(tmp_path)
    loaded = load_model(spec(tmp_path))
    assert torch.equal(logps_of(loaded), logps_of(made))
    assert all(p.requires_grad for p in loaded.parameters())
    ours, theirs = identify(made, "a"), identify(loaded, "b")
    assert replace(ours, path="b") == theirs
    assert theirs.architecture == type(made).__name__
    assert theirs.dtype == "float32"


def test_the_type_of_the_weights(tmp_path):
    tiny_model("llama", dtype=torch.bfloat16).save_pretrained(tmp_path)
    for dtype, expected in {"auto": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}.items():
        assert next(load_model(spec(tmp_path, dtype=dtype)).parameters()).dtype == expected
    with pytest.raises(UserError, match=r"Unknown dtype 'bf16'.\n  Did you mean 'bfloat16'"):
        load_model(spec(tmp_path, dtype="bf16"))


def test_the_device(folders):
    assert load_model(spec(folders / "llama", device="cpu")).device.type == "cpu"
    with pytest.raises(UserError, match="Unknown device 'cupid'"):
        load_model(spec(folders / "llama", device="cupid"))
    with pytest.raises(UserError, match="This machine has no device cuda:99"):
        load_model(spec(folders / "llama", device="cuda:99"))


class TestAdapters:
    def test_one_on_top_of_its_base(self, folders):
        loaded = load_model(spec(folders / "llama", adapter=str(folders / "adapter")))
        assert torch.equal(logps_of(loaded), logps_of(adapter_for("")))
        assert not any(p.requires_grad for p in loaded.parameters())
        trained = load_model(spec(folders / "llama", adapter=str(folders / "adapter")), trainable_adapter=True)
        assert {"lora_" in name for name, p in trained.named_parameters() if p.requires_grad} == {True}

    def test_a_folder_of_one_stands_for_its_base_with_it_merged(self, folders):
        assert is_adapter_folder(str(folders / "adapter"))
        assert not is_adapter_folder(str(folders / "llama"))
        loaded = load_model(spec(folders / "adapter"))
        assert type(loaded).__name__ == "LlamaForCausalLM"
        assert all(p.requires_grad for p in loaded.parameters())
        torch.testing.assert_close(logps_of(loaded), logps_of(adapter_for("")), rtol=0, atol=1e-4)
        assert (logps_of(loaded) - logps_of(tiny_model("llama"))).abs().max() > 0.1
        assert load_tokenizer(spec(folders / "adapter")).eos_token_id == 2

    @pytest.mark.parametrize("base", ["qwen3", "phi"])
    def test_another_base_is_refused(self, base, folders):
        """Of these two the first has layers of the same names and shapes, and peft takes it."""
        with pytest.raises(UserError, match=rf"model_type is {base}, not llama.\n  Made for .*llama"):
            load_model(spec(folders / base, adapter=str(folders / "adapter")))

    @pytest.mark.parametrize("layers", [1, 3])
    def test_another_size_of_the_base_is_refused(self, layers, folders, tmp_path):
        shallow = tiny_model("llama")
        shallow.config.num_hidden_layers = layers
        type(shallow)(shallow.config).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=f"num_hidden_layers is {layers}, not 2"):
            load_model(spec(tmp_path, adapter=str(folders / "adapter")))

    def test_layers_without_a_place_are_noticed_when_the_base_is_not_at_hand(self, folders, tmp_path):
        adapter_for("some/base").save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        shallow = tiny_model("llama")
        shallow.config.num_hidden_layers = 1
        type(shallow)(shallow.config).save_pretrained(tmp_path / "shallow")
        with pytest.raises(UserError, match=r"no place for .*layers.1.* and 13 more.\n  Made for some/base"):
            load_model(spec(tmp_path / "shallow", adapter=str(tmp_path / "adapter")))
        with pytest.raises(UserError, match=r"does not fit .*\n  Made for some/base"):
            load_model(spec(folders / "phi", adapter=str(tmp_path / "adapter")))

    def test_a_folder_without_one_is_refused(self, folders, tmp_path):
        with pytest.raises(UserError, match="holds no adapter"):
            load_model(spec(folders / "llama", adapter=str(folders / "llama")))
        (tmp_path / "adapter_config.json").write_text("{")
        with pytest.raises(UserError, match="is not valid JSON"):
            load_model(spec(tmp_path))
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        with pytest.raises(UserError, match="does not name its base model"):
            load_model(spec(tmp_path))

    def test_damaged_weights_are_named(self, folders, tmp_path):
        adapter_for(folders / "llama").save_pretrained(tmp_path)
        weights = tmp_path / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:900])
        with pytest.raises(UserError, match="does not fit"):
            load_model(spec(folders / "llama", adapter=str(tmp_path)))

    def test_layers_that_do_not_exist_are_named_with_those_that_do(self):
        with pytest.raises(UserError, match=r"LoRA cannot be put on \['wq'\].*\n  Linear layers.*down_proj.*q_proj"):
            add_lora(tiny_model("llama"), rank=2, alpha=4.0, dropout=0.0, targets=["wq"])

    def test_a_fresh_one_changes_nothing_and_only_it_is_trained(self):
        model = add_lora(tiny_model("llama"), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
        assert torch.equal(logps_of(model), logps_of(tiny_model("llama")))
        assert {"lora_" in name for name, p in model.named_parameters() if p.requires_grad} == {True}


class TestIdentity:
    def test_a_model_below_a_fresh_adapter_is_the_base(self):
        base = identify(tiny_model("llama"), "x")
        adapted = add_lora(tiny_model("llama"), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
        assert identify(adapted, "x", adapter="off") == base
        assert identify(adapted, "x").weights != base.weights

    def test_it_does_not_depend_on_how_the_model_is_run(self):
        model = tiny_model("gemma3")
        before = identify(model, "x")
        lm, _ = fastest_exact(model)
        assert lm.way == "segments"
        lm.accumulate_in_place()
        model.train()
        assert identify(model, "x") == before

    def test_it_does_not_depend_on_dropout(self):
        one, other = tiny_model("gpt2"), tiny_model("gpt2")
        other.config.attn_pdrop = 0.3
        assert identify(one, "x") == identify(other, "x")

    def test_every_weight_and_every_number_of_the_configuration_counts(self):
        seen = {identify(tiny_model("gpt2"), "x").weights}
        for name in ("transformer.wte.weight", "transformer.ln_f.bias", "transformer.h.1.mlp.c_proj.weight"):
            model = tiny_model("gpt2")
            with torch.no_grad():
                model.get_parameter(name).view(-1)[0] += 1e-5
            seen.add(identify(model, "x").weights)
        model = tiny_model("gpt2")
        model.config.layer_norm_epsilon = 1e-6
        seen.add(identify(model, "x").weights)
        seen.add(identify(tiny_model("gpt2", dtype=torch.bfloat16), "x").weights)
        assert len(seen) == 6

    def test_the_scale_of_an_adapter_counts(self):
        """Rank and weights equal, alpha not: another function."""
        one, other = (adapter_for("x", alpha=alpha) for alpha in (4.0, 8.0))
        assert (logps_of(one) - logps_of(other)).abs().max() > 0.01
        assert identify(one, "x").weights != identify(other, "x").weights
        assert identify(one, "x", adapter="off") == identify(other, "x", adapter="off")

    def test_the_number_of_weights(self):
        """Embedding and head 2 · 288 · 48; a layer: queries and output 2 · 48², keys and values 2 · 48 · 24, the
        three of the MLP 3 · 48 · 64, two norms 2 · 48; the last norm 48.
        """
        layer = 2 * 48**2 + 2 * 48 * 24 + 3 * 48 * 64 + 2 * 48
        assert identify(tiny_model("llama"), "x").parameters == 2 * 288 * 48 + 2 * layer + 48
        tied = tiny_model("gpt2")
        assert identify(tied, "x").parameters == tied.num_parameters()


def outputs_differ(model):
    """Return whether two passes in training mode differ."""
    model.train()
    return not torch.equal(logps_of(model), logps_of(model))


NOISY = {
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "gpt_neox": ("hidden_dropout", "attention_dropout"),
    "llama": ("attention_dropout",),
    "opt": ("dropout", "attention_dropout", "layerdrop"),
    "bloom": ("hidden_dropout", "attention_dropout"),
    "phi": ("resid_pdrop", "embd_pdrop", "attention_dropout"),
}


@pytest.mark.parametrize("family", NOISY)
def test_a_loaded_model_has_no_dropout_even_in_training(family, tmp_path):
    quiet = tiny_model(family)
    for name in NOISY[family]:
        assert name in quiet.config.to_dict()
        setattr(quiet.config, name, 0.3)
    quiet.save_pretrained(tmp_path)
    torch.manual_seed(0)
    assert outputs_differ(type(quiet)(quiet.config))
    loaded = load_model(spec(tmp_path))
    assert not outputs_differ(loaded)
    assert getattr(loaded.config, NOISY[family][0]) == 0.3  # what is exported later says what it said before


def test_the_dropout_of_an_adapter_stays():
    model = adapter_for("x", dropout=0.5)
    make_deterministic(model)
    assert outputs_differ(model)


class TestTokenizer:
    def test_the_one_beside_the_model(self, folders):
        assert load_tokenizer(spec(folders / "llama"))("the cat").input_ids == tiny_tokenizer()("the cat").input_ids

    def test_a_template_of_ones_own(self, folders):
        assert load_tokenizer(spec(folders / "llama"), "{{ messages }}").chat_template == "{{ messages }}"
        assert load_tokenizer(spec(folders / "llama")).chat_template is None

    def test_one_without_eos_is_refused(self, tmp_path):
        tiny_model("llama").save_pretrained(tmp_path)
        tiny_tokenizer(eos=None).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=r'no end-of-sequence token.*\n  Set "eos_token"'):
            load_tokenizer(spec(tmp_path))

    @pytest.mark.parametrize("family", ["phi", "qwen3"])
    def test_a_folder_without_one_is_refused(self, family, folders):
        """For these transformers returns a tokenizer without a vocabulary, for which every text is empty."""
        with pytest.raises(UserError, match=f"{family} holds no tokenizer"):
            load_tokenizer(spec(folders / family))


class TestPlaces:
    def test_a_folder_without_a_model_names_the_one_inside(self, folders):
        with pytest.raises(UserError, match=r"holds no model \(no config.json\).\n  Did you mean .*/adapter\?"):
            load_model(spec(folders))

    def test_an_empty_folder_says_what_one_holds(self, tmp_path):
        with pytest.raises(UserError, match=r"A model folder holds config.json"):
            load_model(spec(tmp_path))

    def test_a_misspelt_folder_names_its_neighbour(self, folders):
        with pytest.raises(UserError, match=rf"No folder .*\n  Did you mean {re.escape(str(folders / 'llama'))}\?"):
            load_model(spec(folders / "lama"))
        with pytest.raises(UserError, match="does not exist either"):
            load_model(spec(folders / "nowhere" / "llama"))

    def test_a_file_is_no_folder(self, folders):
        with pytest.raises(UserError, match="is a file"):
            load_model(spec(folders / "llama" / "config.json"))
        with pytest.raises(UserError, match=r"No file .*model\.gguf"):
            load_model(spec(folders / "llama" / "model.gguf"))

    def test_a_hub_id_without_the_network(self):
        with pytest.raises(UserError, match=r"nobody/nothing cannot be loaded.*\n  Check the id, the network"):
            load_model(spec("nobody/nothing"))


def damaged(folder, tmp_path, change):
    """Return a copy of a model folder whose weights or configuration were changed."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    change(tmp_path)
    return spec(tmp_path)


class TestDamage:
    def test_a_file_that_was_not_copied_to_its_end(self, folders, tmp_path):
        def cut(folder):
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:5000])

        with pytest.raises(UserError, match=r"are damaged.*\n.*fetch it again"):
            load_model(damaged(folders / "llama", tmp_path, cut))

    def test_weights_that_are_missing_are_not_made_up(self, folders, tmp_path):
        def lose(folder):
            weights = load_file(folder / "model.safetensors")
            kept = {name: tensor for name, tensor in weights.items() if "layers.1.mlp" not in name}
            save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

        with pytest.raises(UserError, match=r"lacks 3 weights .* such as model.layers.1.mlp.down_proj.weight"):
            load_model(damaged(folders / "llama", tmp_path, lose))

    def test_weights_of_another_shape(self, folders, tmp_path):
        def shrink(folder):
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))

        with pytest.raises(UserError, match="say different shapes"):
            load_model(damaged(folders / "llama", tmp_path, shrink))

    def test_an_encoder_is_no_language_model(self, tmp_path):
        size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        BertModel(BertConfig(vocab_size=30, **size)).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=r"lacks \d weights of a causal language model"):
            load_model(spec(tmp_path))

    @pytest.mark.parametrize("text", ['{"a":', '{"model_type": "wolpertinger"}'])
    def test_a_configuration_that_is_none(self, text, folders, tmp_path):
        with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
            load_model(damaged(folders / "llama", tmp_path, lambda folder: (folder / "config.json").write_text(text)))


class TestLanguagePartsOfOthers:
    """Language models of types that see as well, saved by themselves as a training saves them."""

    @pytest.mark.parametrize("kind", [MllamaForCausalLM, Emu3ForCausalLM])
    def test_they_come_back_where_the_automatic_class_does_not_know_them(self, kind, tmp_path):
        size = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        size |= {"num_key_value_heads": 2, "vocab_size": 288, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        torch.manual_seed(0)
        own = {"cross_attention_layers": []} if kind is MllamaForCausalLM else {}
        made = kind(kind.config_class(**size, **own)).eval()
        made.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="Unrecognized configuration class"):
            AutoModelForCausalLM.from_pretrained(tmp_path)
        loaded = load_model(spec(tmp_path))
        assert type(loaded) is kind
        torch.testing.assert_close(logps_of(loaded), logps_of(made))

    def test_one_that_answers_an_encoder_is_refused(self, tmp_path):
        size = {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8, "vocab_size": 288}
        T5ForConditionalGeneration(T5Config(**size, decoder_start_token_id=0)).save_pretrained(tmp_path)
        with pytest.raises(UserError, match="cannot be loaded as a causal language model: Unrecognized configuration"):
            load_model(spec(tmp_path))


class TestRouters:
    """Experts that are drawn, or read through noise, in training mode."""

    @pytest.mark.parametrize(
        ("kind", "noise"),
        [
            ("phimoe", {"router_jitter_noise": 0.3, "input_jitter_noise": 0.3}),
            ("mixtral", {"router_jitter_noise": 0.3}),
        ],
    )
    def test_they_choose_as_in_evaluation(self, kind, noise, tmp_path):
        size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        size |= {"num_key_value_heads": 1, "num_local_experts": 4, "num_experts_per_tok": 2}
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=288, **size, **noise)
        noisy = AutoModelForCausalLM.from_config(config).eval()
        noisy.save_pretrained(tmp_path)
        want = logps_of(noisy)
        assert outputs_differ(noisy)
        loaded = load_model(spec(tmp_path))
        assert not outputs_differ(loaded)
        torch.testing.assert_close(logps_of(loaded.train()), want, rtol=0, atol=1e-5)
        assert not outputs_differ(copy.deepcopy(loaded))
