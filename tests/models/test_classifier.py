"""Reward models: a head on shared prompts, and the same numbers from transformers alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import random_groups
from tiny import FAMILIES, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tokenq.core.packing import at_own_state, every_token, last_token, pack
from tokenq.errors import UserError
from tokenq.models.classifier import load_classifier, padding_of
from tokenq.models.export import export_policy
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.proof import fastest_exact, prove
from tokenq.models.forward.reward_lm import REWARDS, RewardLM, outputs_of
from tokenq.models.load import ModelSpec, add_lora

GROUPS = random_groups(holes=False)
FAMILIES_WITH_ONE = ["llama", "qwen2", "gpt_neox", "gpt2", "mistral", "gemma3"]


def saved(folder, family="llama", seed=0):
    tiny_model(family, seed=seed).save_pretrained(folder)
    tiny_tokenizer("bytes").save_pretrained(folder)
    return ModelSpec(str(folder))


def classifier(folder, family="llama", names=("reward",), seed=0):
    return load_classifier(saved(folder, family), tiny_tokenizer("bytes"), names, seed)


def test_the_layers_are_the_language_models_and_the_head_is_drawn_by_seed(tmp_path):
    one, same, other = (classifier(tmp_path, seed=seed, names=["a", "b"]) for seed in (3, 3, 4))
    causal = tiny_model("llama")
    for name, weight in causal.model.state_dict().items():
        assert torch.equal(one.model.state_dict()[name], weight)
    assert torch.equal(one.score.weight, same.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    # d = 48: 96 numbers of standard deviation 1/49.
    assert one.score.weight.std().item() == pytest.approx(1 / 49, rel=0.25)
    assert outputs_of(one) == ["a", "b"]
    assert one.config.label2id == {"a": 0, "b": 1}
    assert all(weight.device.type == "cpu" for weight in one.state_dict().values())


@pytest.mark.parametrize("family", FAMILIES_WITH_ONE)
def test_a_saved_classifier_gives_the_same_scores_in_transformers_on_padded_rows(family, tmp_path):
    """Padded on either side, all rows in one batch, by the code of transformers alone."""
    model = classifier(tmp_path / "start", family, names=["helpful", "brief"])
    model.score.weight.data.mul_(20)  # as trained: a new head gives rewards near 0
    packed, said = fastest_exact(model, "auto", 64, REWARDS)
    assert (packed.way, said) == ("segments", [])
    lm, tokenizer = RewardLM(packed), tiny_tokenizer("bytes")
    groups = [at_own_state(group, last_token) for group in ended_in_eos()]
    with torch.no_grad():
        want = lm(pack(groups)).rewards
    assert want.shape == (6, 2)
    export_policy(lm, tokenizer, tmp_path / "reward_model", "card")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward_model").eval()
    assert loaded.config.id2label == {0: "helpful", 1: "brief"}
    reader = AutoTokenizer.from_pretrained(tmp_path / "reward_model")
    assert reader.pad_token_id == loaded.config.pad_token_id == 0
    rows = [np.concatenate((g.prompt_ids, r.ids)).tolist() for g in ended_in_eos() for r in g.responses]
    for side in ("right", "left"):
        reader.padding_side = side
        batch = reader.pad({"input_ids": rows}, return_tensors="pt")
        if side == "left" and family == "gpt2":  # its positions count padding unless they are given
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            got = loaded(**batch).logits
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert want.std() > 0.1


def ended_in_eos():
    """Return the groups with an EOS at the end of every response, and no padding token anywhere."""
    found = []
    for group in GROUPS:
        prompt = np.maximum(group.prompt_ids, 3)
        responses = []
        for response in group.responses:
            ids = np.maximum(response.ids, 3)
            ids[-1] = 2
            responses.append(replace(response, ids=ids, terminal=True))
        found.append(type(group)(prompt, tuple(responses), group.is_pair, group.where))
    return found


def test_every_prefix_is_scored_as_a_classifier_scores_it_alone(tmp_path):
    """The head at token t of a shared row is what transformers says of the text that ends at t."""
    model = classifier(tmp_path)
    groups = ended_in_eos()[:2]
    lm = RewardLM(PackedLM(model, "segments"))
    with torch.no_grad():
        got = lm(pack([at_own_state(group, every_token) for group in groups])).rewards[:, 0].tolist()
        model = lm.release()
        rows = [
            torch.tensor(np.concatenate((group.prompt_ids, response.ids[: n + 1])))[None].long()
            for group in groups
            for response in group.responses
            for n in range(len(response.ids))
        ]
        want = [model(input_ids=row).logits.item() for row in rows]
    assert got == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_gradients_are_those_of_padded_rows(family, tmp_path):
    results = []
    for way in ("segments", "plain"):
        model = classifier(tmp_path, family).double()
        lm = RewardLM(PackedLM(model, way))
        lm(pack([at_own_state(group, last_token) for group in GROUPS])).rewards.square().sum().backward()
        results.append({name: weight.grad for name, weight in model.named_parameters()})
    assert results[0]["score.weight"].abs().max() > 1e-3
    for name, gradient in results[0].items():
        torch.testing.assert_close(gradient, results[1][name], rtol=1e-5, atol=1e-6)


def test_a_way_that_is_wrong_is_noticed(tmp_path):
    model = classifier(tmp_path, "bloom")
    shared = PackedLM(model, "segments")
    assert prove(shared, REWARDS)[0] > 1
    shared.release()
    packed, said = fastest_exact(model, "auto", 64, REWARDS)
    assert packed.way == "plain"
    assert "'segments' is not exact" in said[0]
    with pytest.raises(UserError, match="Unknown attention 'full'"):
        fastest_exact(model, "full", 64, REWARDS)


def test_training_goes_on_from_a_classifier(tmp_path):
    first = classifier(tmp_path / "start", names=["quality"])
    first.save_pretrained(tmp_path / "first")
    tiny_tokenizer("bytes").save_pretrained(tmp_path / "first")
    spec = ModelSpec(str(tmp_path / "first"))
    again = load_classifier(spec, tiny_tokenizer("bytes"), ["reward"], 9)  # one output is one output
    assert torch.equal(again.score.weight, first.score.weight)
    assert outputs_of(again) == ["reward"]
    with pytest.raises(UserError, match="has the outputs quality, and the data a, b"):
        load_classifier(spec, tiny_tokenizer("bytes"), ["a", "b"], 0)


def test_an_adapter_is_merged_into_what_is_saved(tmp_path):
    model = classifier(tmp_path / "start")
    before = model.score.weight.clone()
    adapted = add_lora(model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear", task="SEQ_CLS")
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert any("score" in name for name in trained)
    assert all("lora_" in name or "score" in name for name in trained)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if name in trained:
                weight.add_(0.1 * torch.ones_like(weight))
    packed, said = fastest_exact(adapted, "auto", 64, REWARDS)
    assert not said
    lm = RewardLM(packed)
    groups = [at_own_state(group, last_token) for group in ended_in_eos()]
    with torch.no_grad():
        want = lm(pack(groups)).rewards
    export_policy(lm, tiny_tokenizer("bytes"), tmp_path / "out", "card", form="merged")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    loaded = load_classifier(ModelSpec(str(tmp_path / "out")), tiny_tokenizer("bytes"), ["reward"], 0)
    torch.testing.assert_close(loaded.score.weight, before + 0.1)
    with torch.no_grad():
        got = RewardLM(PackedLM(loaded, "segments"))(pack(groups)).rewards
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_reward_model_stands_on_an_adapter_folder_too(tmp_path):
    """The adapter of an SFT run, merged below the head."""
    saved(tmp_path / "base")
    causal = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = add_lora(causal, rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "sft")
    model = load_classifier(ModelSpec(str(tmp_path / "sft")), tiny_tokenizer("bytes"), ["reward"], 0)
    merged = adapted.merge_and_unload()
    name = "layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(model.model.state_dict()[name], merged.model.state_dict()[name])
    assert not torch.equal(model.model.state_dict()[name], tiny_model("llama").model.state_dict()[name])


@pytest.mark.parametrize("family", ["mamba", "lfm2"])
def test_a_family_without_a_classifier_is_refused(family, tmp_path):
    assert family in FAMILIES
    with pytest.raises(UserError, match="transformers has no sequence classifier for"):
        classifier(tmp_path, family)


def test_what_pads_is_never_what_a_reward_is_read_at():
    """A tokenizer that pads with EOS gets another special token for it."""
    tokenizer = tiny_tokenizer("bytes")
    tokenizer.pad_token = tokenizer.eos_token
    assert padding_of(tokenizer) == tokenizer.unk_token_id == tokenizer.pad_token_id
    lone = tiny_tokenizer("bytes")
    lone.pad_token = lone.unk_token = lone.bos_token = lone.eos_token
    with pytest.raises(UserError, match="no token to pad with but EOS"):
        padding_of(lone)


def test_an_adapter_on_top_is_refused(tmp_path):
    spec = ModelSpec(saved(tmp_path).path, adapter="somewhere")
    with pytest.raises(UserError, match="--adapter does not go with a reward model"):
        load_classifier(spec, tiny_tokenizer("bytes"), ["reward"], 0)
