"""A reward model as a judge of texts, against the classifiers of plain transformers and peft."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import CHATML, tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

import tokenq
from tokenq.errors import UserError
from tokenq.jobs.inputs import spec_of
from tokenq.models.classifier import load_classifier, open_classifier
from tokenq.models.forward.reward_lm import REWARDS, RewardLM
from tokenq.models.load import ModelSpec
from tokenq.models.open import open_model
from tokenq.models.reward_model import RewardModel
from tokenq.records.examples import Message

ASKED = ["The sky is", "Two and", "The sky is", "The sky is", "", "Two and"]
ANSWERS = [" blue.", " two", " red and green, and so is the sea", " blue.", "a", " four, or it is five"]
TOLERANCE = 1e-5


def save(folder, family="llama", outputs=1, **tokenizer):
    """Save a classifier as anybody makes one, not of this package: nothing is read at an EOS."""
    config = tiny_model(family, vocab_size=320).config
    config.num_labels = outputs
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny_tokenizer("bytes", **tokenizer).save_pretrained(folder)
    return ModelSpec(str(folder), device="cpu")


@torch.no_grad()
def own(model, tokenizer, texts, **options):
    return [
        model(input_ids=torch.tensor([tokenizer(text, **options)["input_ids"]])).logits[0].tolist() for text in texts
    ]


def plain(spec, texts, **options):
    model = AutoModelForSequenceClassification.from_pretrained(spec.path).eval()
    return own(model, AutoTokenizer.from_pretrained(spec.path), texts, **options)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3", "gemma3"])
@pytest.mark.parametrize("budget", [4096, 1])
def test_texts_are_scored_as_transformers_scores_them(family, budget, tmp_path):
    spec = save(tmp_path, family)
    got = RewardModel(spec, tokens_per_batch=budget).score(ASKED, ANSWERS)
    want = [row[0] for row in plain(spec, [a + b for a, b in zip(ASKED, ANSWERS, strict=True)])]
    assert got == pytest.approx(want, abs=TOLERANCE)
    assert got[0] == got[3]
    assert len({round(value, 6) for value in got}) == 5


def test_turns_are_scored_as_transformers_scores_them(tmp_path):
    spec = save(tmp_path, chat_template=CHATML, eos="<|im_end|>")
    asked = [(Message("user", text),) for text in ASKED]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": a}, {"role": "assistant", "content": b}], tokenize=False
        )
        for a, b in zip(ASKED, ANSWERS, strict=True)
    ]
    want = [row[0] for row in plain(spec, texts, add_special_tokens=False)]
    assert RewardModel(spec).score(asked, ANSWERS) == pytest.approx(want, abs=TOLERANCE)


def test_several_outputs_are_weighed(tmp_path):
    spec = save(tmp_path, outputs=3)
    rows = plain(spec, [a + b for a, b in zip(ASKED, ANSWERS, strict=True)])
    weights = {"LABEL_0": 0.5, "LABEL_2": "-2"}
    want = [0.5 * row[0] - 2 * row[2] for row in rows]
    assert RewardModel(spec, weights).score(ASKED, ANSWERS) == pytest.approx(want, abs=TOLERANCE)


def test_an_encoder_judges_whole_texts_and_is_read_at_no_token(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    BertForSequenceClassification(BertConfig(vocab_size=320, num_labels=1, **sizes)).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer("bytes")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    spec = ModelSpec(str(tmp_path), device="cpu")
    want = [row[0] for row in plain(spec, [a + b for a, b in zip(ASKED, ANSWERS, strict=True)])]
    assert RewardModel(spec).score(ASKED, ANSWERS) == pytest.approx(want, abs=1e-7)
    with pytest.raises(UserError, match="BertForSequenceClassification has no linear head that could be read at every"):
        open_classifier(spec)


def test_a_loaded_one_scores_like_its_folder(tmp_path):
    spec = save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    given = spec_of(model, AutoTokenizer.from_pretrained(tmp_path))
    assert RewardModel(given).score(ASKED, ANSWERS) == RewardModel(spec).score(ASKED, ANSWERS)
    forms = (str(tmp_path), model, (model, given.loaded.tokenizer))
    readers = [
        tokenq.load(reward_model=form, tokenizer=given.loaded.tokenizer if form is model else None) for form in forms
    ]
    traces = [reader.score("The sky is", " blue.").trace for reader in readers]
    assert [trace.totals.reward for trace in traces] == [traces[0].totals.reward] * 3


def save_adapter(folder, outputs=1, dtype=torch.float32, **asked):
    """Save an adapter of a reward model on a language model, as TRL does: the head comes with the adapter."""
    tiny_model("llama", vocab_size=320, dtype=dtype).save_pretrained(folder / "base")
    tiny_tokenizer("bytes").save_pretrained(folder / "base")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=outputs, dtype=dtype)
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules="all-linear", **asked)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder / "adapter")
    return ModelSpec(str(folder / "adapter"), device="cpu"), adapted.eval()


@pytest.mark.parametrize("outputs", [1, 3])
def test_an_adapter_of_a_reward_model_opens_with_its_base(outputs, tmp_path):
    spec, adapted = save_adapter(tmp_path, outputs)
    weights = {f"LABEL_{n}": n + 1.0 for n in range(outputs)}
    texts = [a + b for a, b in zip(ASKED, ANSWERS, strict=True)]
    want = [
        sum(w * v for w, v in zip(weights.values(), row, strict=True))
        for row in own(adapted, tiny_tokenizer("bytes"), texts)
    ]
    assert RewardModel(spec, weights).score(ASKED, ANSWERS) == pytest.approx(want, abs=1e-4)
    lm = RewardLM(open_model(spec, load=open_classifier, proof=REWARDS).lm)
    assert len(lm.attributes) == outputs
    assert not isinstance(lm.model, PeftModel)
    moved = ModelSpec(str(tmp_path / "adapter"), device="cpu", base=str((tmp_path / "base").rename(tmp_path / "moved")))
    assert RewardModel(moved, weights).score(ASKED, ANSWERS) == pytest.approx(want, abs=1e-4)


def test_in_half_precision_the_adapter_stays_beside_its_base(tmp_path):
    spec, adapted = save_adapter(tmp_path, dtype=torch.bfloat16)
    texts = [a + b for a, b in zip(ASKED, ANSWERS, strict=True)]
    want = [row[0] for row in own(adapted, tiny_tokenizer("bytes"), texts)]
    assert isinstance(open_model(spec, load=open_classifier, proof=REWARDS).lm.model, PeftModel)
    assert RewardModel(spec).score(ASKED, ANSWERS) == pytest.approx(want, abs=0.05)


def test_an_adapter_of_a_reward_model_is_trained_further_in_its_base(tmp_path):
    spec, adapted = save_adapter(tmp_path)
    model = load_classifier(spec, tiny_tokenizer("bytes"), ["reward"], 0)
    assert all(p.requires_grad for p in model.parameters())
    ids = torch.tensor([tiny_tokenizer("bytes")("The sky is blue")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, adapted(ids).logits, rtol=0, atol=1e-4)


def test_an_adapter_of_a_language_model_is_no_reward_model(tmp_path):
    tiny_model("llama", vocab_size=320).save_pretrained(tmp_path / "base")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    get_peft_model(tiny_model("llama", vocab_size=320), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="cannot be loaded as a reward model: it was made for CAUSAL_LM"):
        open_classifier(ModelSpec(str(tmp_path / "adapter"), base=str(tmp_path / "base")))
