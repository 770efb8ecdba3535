"""Types that transformers has only as image-text-to-text: read, written with and trained as language models."""

import json
import math

import pytest
import torch
from builders import random_groups
from test_architectures import NEW, PROMPT, SAME, largest_difference, losses, save, train, written
from tiny_types import TOKENIZER
from transformers import AutoModelForImageTextToText, AutoTokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.core.packing import pack
from tokenq.errors import UserError
from tokenq.jobs.inputs import spec_of
from tokenq.models.checkpoint import textless_modules
from tokenq.models.load import add_lora, load_model, load_whole
from tokenq.models.open import open_model

QUICK = ("mistral3", "qwen2_5_vl")
KINDS = (
    *("qwen2_vl", "qwen3_vl", "llava"),
    *("aria", "aya_vision", "cohere2_vision", "exaone4_5", "glm4v", "granite_docling", "idefics3", "internvl"),
    *("lfm2_vl", "llava_next", "llava_onevision", "minicpmv4_6", "ovis2", "qwen3_vl_moe", "smolvlm"),
)
"""Types that see. The first have positions in three axes, which are one for text."""


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS)])
def test_it_is_read_written_with_and_trained_as_transformers_has_it(kind, tmp_path):
    saved = save(kind, tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved)

    assert largest_difference(tokenq.load(str(saved), str(saved)), model) <= SAME
    candidate = tokenq.decode(str(saved), [PROMPT], method="greedy", max_new_tokens=NEW)[0].candidates[0]
    assert list(candidate.token_ids) == written(model, tokenizer(PROMPT).input_ids, tokenizer.eos_token_id)

    run = tmp_path / "run"
    assert train(saved, run) == 0
    first, second = losses(run)
    assert first == pytest.approx(math.log(2), abs=1e-5)
    assert second < first

    again = AutoModelForImageTextToText.from_pretrained(run / "policy", dtype=torch.float32)
    assert type(again) is type(model)
    begun, ended, unread = model.state_dict(), again.state_dict(), tuple(f"{name}." for name in textless_modules(model))
    assert unread
    moved = {name for name, weight in ended.items() if not torch.equal(weight, begun[name])}
    assert moved
    assert not any(name.startswith(unread) for name in moved)
    assert largest_difference(tokenq.load(str(run / "policy"), str(saved)), again.eval()) <= SAME


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_what_reads_images_goes_along(tmp_path):
    """An adapter is put on no part that sees; what the folder says of images stands in the policy's again."""
    saved = save("mistral3", tmp_path / "model")
    (saved / "preprocessor_config.json").write_text('{"image_processor_type": "PixtralImageProcessor"}')
    whole = load_whole(spec_of(saved))
    unread = {name for name, weight in whole.named_parameters() if not weight.requires_grad}
    assert unread == {name for name, _ in whole.named_parameters() if "vision" in name or "projector" in name}
    adapted = add_lora(load_model(spec_of(saved)), rank=2, alpha=4.0, dropout=0.0, targets="all-linear")
    layers = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert layers
    assert all("language_model" in name for name in layers)
    assert train(saved, tmp_path / "run", "--lora-rank", "2") == 0
    assert losses(tmp_path / "run")[0] == pytest.approx(math.log(2), abs=1e-5)
    tokenq.load(str(tmp_path / "run" / "policy"))
    assert train(saved, tmp_path / "whole") == 0
    assert (tmp_path / "whole" / "policy" / "preprocessor_config.json").exists()


@pytest.mark.filterwarnings("ignore")
def test_one_in_memory_is_read_as_from_its_folder(tmp_path):
    saved = save("qwen2_5_vl", tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32)
    groups = random_groups(vocabulary=len(TOKENIZER))
    live, named = open_model(spec_of(model, TOKENIZER)), open_model(spec_of(saved))
    assert live.identity.weights == named.identity.weights
    with torch.no_grad():
        assert torch.equal(live.lm(pack(groups)).logps, named.lm(pack(groups)).logps)


def test_a_model_that_says_nothing_without_an_image_is_refused(tmp_path):
    saved = save("blip", tmp_path / "model")
    with pytest.raises(UserError, match="missing 1 required positional argument: 'pixel_values'"):
        tokenq.load(str(saved), str(saved))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is it?", "images": ["cat.png"], "chosen": " a cat", "rejected": " a dog"},
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
            "chosen": [{"role": "assistant", "content": "a cat"}],
            "rejected": [{"role": "assistant", "content": "a dog"}],
        },
    ],
    ids=["column", "turn"],
)
def test_images_in_rows_are_refused_in_words(row, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    words = ["train", "--model", str(tmp_path), "--data", str(tmp_path / "rows.jsonl"), "--loss", "dpo"]
    saved = save("qwen2_5_vl", tmp_path)
    assert main([*words, "--output", str(saved / "run")]) == 2
    assert "only text is read" in capsys.readouterr().err
