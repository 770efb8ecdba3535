"""Rows of pictures that cannot be trained on, and settings that do not go with pictures: each is said, with its row."""

import numpy as np
import pytest
import torch
from drawn_pairs import read_rows, write_pairs, write_rows
from PIL import Image
from transformers import AutoTokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.core.losses import find_sum
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.open import open_image_model
from tokenq.errors import UserError
from tokenq.jobs.training.images.data import load_pictures
from tokenq.jobs.training.images.rows import common_steps, picture_groups, read_pictures
from tokenq.listener import SILENCE
from tokenq.records.drawings import packed_trajectory, read_trajectory
from tokenq.training.config import TrainConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny image model, a tiny refiner, and pairs."""
    return write_pairs(tmp_path_factory.mktemp("rows"), 4)


def refused(place, output, data, **more):
    """Return what a training on rows says before its first step; it leaves nothing."""
    settings = {"max_steps": 1, "device": "cpu", "keep_checkpoints": 0, "model": place / "image", **more}
    with pytest.raises(UserError) as caught:
        tokenq.train(data=data, output=output, **settings)
    assert not output.exists()
    return f"{caught.value.message} {caught.value.hint}"


def changed(place, tmp_path, name, **cells):
    """Return a file of the rows of one kind, the second changed, beside the pictures."""
    rows = read_rows(place / f"{name}.jsonl")
    rows[1] |= cells
    rows[1] = {column: cell for column, cell in rows[1].items() if cell != "left out"}
    return write_rows(place / f"{tmp_path.name}.jsonl", rows)


def with_trajectory(place, name, **fields):
    """Write a trajectory of another kind beside the first one of row 2, and return its name."""
    held = read_trajectory(place / "1_rejected.safetensors")
    (place / name).write_bytes(packed_trajectory(held._replace(**fields)))
    return name


def test_pictures_that_cannot_be_used_are_named_with_their_row(place, tmp_path):
    Image.new("RGB", (8, 12)).save(place / "tall.png")
    (place / "torn.png").write_bytes((place / "1_chosen.png").read_bytes()[:40])
    (place / "words.png").write_text("no picture")
    cases = {
        "1_none.png cannot be read as an image: No such file": {"chosen": "1_none.png"},
        "torn.png cannot be read as an image": {"chosen": "torn.png"},
        "words.png cannot be read as an image": {"rejected": "words.png"},
        "its pictures have 8×12 and 8×8 pixels": {"chosen": "tall.png"},
        "it has no picture in column 'rejected'": {"rejected": None},
        "it has no columns 'chosen' and 'rejected'": {"rejected": "left out"},
        "column 'chosen' holds a int": {"chosen": 7},
        "its prompt is missing": {"prompt": None},
        "chosen equals rejected": {"chosen": "1_rejected.png"},
    }
    for said, cells in cases.items():
        told = refused(place, tmp_path / "run", changed(place, tmp_path, "pairs", **cells))
        assert said in told
        assert "row 2" in told
        assert "--bad-rows drop" in told or "Resize" in told or "Rename" in told or "Give the path" in told


def test_bad_rows_are_left_out_where_that_is_asked_for(place, tmp_path):
    rows = changed(place, tmp_path, "pairs", chosen="1_none.png")
    said = []
    told = type("Told", (), {"__call__": lambda self, event: None, "say": lambda self, text: said.append(text)})()
    settings = {"max_steps": 1, "device": "cpu", "keep_checkpoints": 0, "bad_rows": "drop", "listener": told}
    tokenq.train(place / "image", rows, tmp_path / "run", **settings)
    assert any("4 rows: 6 pictures" in line and "1 an image that cannot be read" in line for line in said)


def test_a_picture_of_another_size_than_the_model_draws_is_named_with_its_row(place, tmp_path):
    for side in ("chosen", "rejected"):
        image = Image.fromarray(np.full((16, 16, 3), 9 if side == "chosen" else 200, np.uint8))
        image.save(place / f"large_{side}.png")
    rows = changed(place, tmp_path, "pairs", chosen="large_chosen.png", rejected="large_rejected.png")
    told = refused(place, tmp_path / "run", rows)
    assert "row 2" in told
    assert "(3, 16, 16)" in told


def test_trajectories_of_a_pair_that_were_drawn_differently_are_refused(place, tmp_path):
    held = read_trajectory(place / "1_rejected.safetensors")
    shorter = {"latents": held.latents[1:], "logps": held.logps[1:], "levels": held.levels[1:]}
    spoilt = held.latents.copy()
    spoilt[2, 0, 0, 0] = np.nan
    cases = {
        "from level 100, sampler ancestral, eta 1, guidance 1; 3 steps from level 100, sampler ancestral, eta 0.5": {
            "eta": 0.5
        },
        "eta 1, guidance 1; 3 steps from level 100, sampler ancestral, eta 1, guidance 7.5": {"guidance": 7.5},
        "eta 1, guidance 1; 3 steps from level 100, sampler flow_sde, eta 1, guidance 1": {"sampler": "flow_sde"},
        "eta 1, guidance 1; 2 steps from level 67": shorter,
        "latents that are not finite": {"latents": spoilt},
    }
    for said, fields in cases.items():
        name = with_trajectory(place, "other.safetensors", **fields)
        rows = changed(place, tmp_path, "drawn", rejected_trajectory=name)
        told = refused(place, tmp_path / "run", rows)
        assert said in told
        assert "row 2" in told


def test_trajectories_that_the_model_would_not_draw_are_refused(place, tmp_path):
    both = {f"{side}_trajectory": with_trajectory(place, f"g_{side}.safetensors", guidance=3.0) for side in SIDES}
    told = refused(place, tmp_path / "run", changed(place, tmp_path, "drawn", **both))
    assert "guidance 3; those of" in told  # the rows around were drawn with 1
    assert "row 2" in told
    rows = [row | both for row in read_rows(place / "drawn.jsonl")]
    for side in SIDES:
        with_trajectory(place, f"g_{side}.safetensors", eta=0.0)
    told = refused(place, tmp_path / "run", write_rows(place / "still.jsonl", rows))
    assert "nothing is decided here" in told or "draws nothing after the first noise" in told
    told = refused(place, tmp_path / "run", place / "pairs.jsonl", image_term="trajectory")
    assert "row 1: there is no trajectory of its pictures" in told


SIDES = ("chosen", "rejected")


def test_a_model_that_was_trained_with_another_guidance_refuses_trajectories(place, tmp_path):
    guided = open_image_model(place / "image")
    ImageModel(**{**vars(guided), "guidance": 4.0}).save(place / "guided")
    told = refused(place, tmp_path / "run", place / "drawn.jsonl", model=place / "guided")
    assert "was trained with guidance 4, and these trajectories were drawn with 1" in told


def test_a_picture_encoder_that_overflows_is_told_by_the_row(place):
    class Overflowing:
        def __getattr__(self, name):
            return getattr(opened.parts, name)

        def latents_of(self, pictures):
            return opened.parts.latents_of(pictures) * float("inf")

    opened = open_image_model(place / "image")
    broken = ImageModel(**{**vars(opened), "parts": Overflowing()})
    found = read_pictures(at_rest(place, read_rows(place / "pairs.jsonl")), "pairs", {}, "error").rows
    with pytest.raises(UserError, match=r"row 1: the latents of its chosen picture are not finite"):
        list(picture_groups(found, broken, 1, trajectories=False))
    assert common_steps(found, "auto") is None


def at_rest(place, rows):
    from tokenq.jobs.training.images.cells import FolderRow

    return [FolderRow(row, f"rows, row {number + 1}", None, place) for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "tdpo2"}, "reads KL(π_ref‖π) at every position off the vocabulary"),
        ({"loss": "wpo"}, "reads log Σ π² at every position off the vocabulary"),
        ({"loss": "bradley_terry"}, "trains a reward model"),
        ({"loss": "dro"}, "reads rewards"),
        ({"loss": "ppo"}, "reads old_logps"),
        ({"token_weights": "mine"}, "--token-weights is given"),
        ({"loss": "plackett_luce"}, "rankings"),
        ({"lora_dropout": 0.1, "lora_rank": 2}, "--lora-dropout is given"),
        ({"adapter": "folder"}, "--adapter is given"),
        ({"segments": {"image": 0.1}}, "an image model alone are one"),
        ({"image_learning_rate": 1e-3}, "It is trained with --learning-rate"),
        ({"dtype": "float16", "lora_rank": 1, "mixed_precision": "fp16"}, "latents that are not finite"),
        ({"attention": "plain"}, "--attention is given"),
        ({"gradient_checkpointing": True}, "does not do it"),
        ({"loss": "kto", "data": "labels", "max_steps": 1, "columns": {"label": "none"}}, "Unknown column 'none'"),
    ],
)
def test_what_does_not_go_with_pictures_is_refused_by_name(settings, said, place, tmp_path):
    given = dict(settings)
    data = place / f"{given.pop('data', 'pairs')}.jsonl"
    assert said in refused(place, tmp_path / "run", data, **given)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"segments": {"words": 0.1, "image": 0.1}}, "prompt_refiner"),
        ({"loss": "d3po"}, "compares action by action"),
        ({"model": "image"}, "are both image models"),
        ({"image_model": "lm"}, "is no image model"),
        ({"reference": "image"}, "--reference is an image model"),
        ({"loss": "orpo", "segments": {"prompt_refiner": 0.1, "image": 0.1}}, "no strengths by segment"),
    ],
)
def test_what_does_not_go_with_a_refiner_is_refused_by_name(settings, said, place, tmp_path):
    names = {name: place / value for name, value in settings.items() if value in ("image", "lm")}
    given = {"model": place / "lm", "image_model": str(place / "image"), **settings, **names}
    given["image_model"] = str(given["image_model"])
    assert said in refused(place, tmp_path / "run", place / "drawn.jsonl", **given)


def test_settings_of_pictures_are_refused_where_none_are_trained(place, tmp_path):
    for given, said in (({"noise_draws": 4}, "--noise-draws is given"), ({"image_term": "error"}, "--image-term")):
        assert said in refused(place, tmp_path / "run", place / "drawn.jsonl", model=place / "lm", **given)


def test_trajectories_of_a_model_with_other_noise_levels_are_refused(place, tmp_path):
    levels = np.array([1000, 667, 333, 0])
    both = {f"{side}_trajectory": with_trajectory(place, f"l_{side}.safetensors", levels=levels) for side in SIDES}
    rows = [row | both for row in read_rows(place / "drawn.jsonl")]
    told = refused(place, tmp_path / "run", write_rows(place / "levels.jsonl", rows))
    assert "begins at noise level 1000; the noise of" in told


def test_weights_that_are_no_numbers_are_told_before_the_first_step(place, tmp_path):
    broken = open_image_model(place / "image")
    with torch.no_grad():
        broken.denoiser.exit.bias[3] = float("nan")
    broken.save(place / "broken")
    for name in ("drawn", "pairs"):
        told = refused(place, tmp_path / name, place / f"{name}.jsonl", model=place / "broken", max_steps=1)
        assert "row" in told
        assert "is not finite" in told


def test_a_command_on_language_models_names_an_image_model(place, capsys):
    words = ["eval", "preference", "--policy", place / "image", "--reference", place / "image", "--data"]
    assert main([*map(str, words), str(place / "pairs.jsonl")]) == 2
    assert "image is an image model, and this needs a language model" in capsys.readouterr().err


def test_words_are_the_ids_that_the_refiner_sampled(place, tmp_path):
    """Without its leading space a word is other tokens; another prompt, tokenizer or text, and the text counts."""
    tokenizer = AutoTokenizer.from_pretrained(place / "lm")
    rows = read_rows(place / "drawn.jsonl")[:3]
    asked = [group.prompt_ids.tolist() for group in words_of(place, write_rows(place / "plain.jsonl", rows), tokenizer)]
    for row, ids in zip(rows, asked, strict=True):
        row["prompt_token_ids"] = ids
        row |= {f"{side}_token_ids": spelt(tokenizer, f" {row[f'{side}_prompt']}") for side in SIDES}
    rows[1]["prompt_token_ids"] = [1, *asked[1]]
    rows[2]["rejected_token_ids"] = spelt(tokenizer, " a red crown")
    groups = words_of(place, write_rows(place / "sampled.jsonl", rows), tokenizer)
    found = [[tokenizer.decode(one.words.ids.tolist()) for one in group.responses] for group in groups]
    sampled, plain = ([[f"{gap}{row[f'{side}_prompt']}" for side in SIDES] for row in rows] for gap in (" ", ""))
    plain = [[f"{text}{tokenizer.eos_token}" for text in some] for some in plain]
    assert found == [sampled[0], plain[1], [sampled[2][0], plain[2][1]]]
    assert [one.words.terminal for one in groups[0].responses] == [False, False]
    rows[0]["chosen_token_ids"] = ["a"]
    assert "chosen_token_ids is no list of token ids" in refused(
        place, tmp_path / "run", write_rows(place / "bad.jsonl", rows)
    )


def spelt(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def words_of(place, data, tokenizer):
    config = TrainConfig(model=str(place / "lm"), image_model=str(place / "image"), data=[str(data)], output="run")
    return load_pictures(config, find_sum("dpo"), open_image_model(place / "image"), tokenizer, SILENCE).groups


def test_drawings_are_told_how_to_become_pairs(place, tmp_path):
    rows = [{"prompt": "a dot", "drawn_prompt": "a dot", "noise_seed": 3, "picture": "1_chosen.png"}]
    told = refused(place, tmp_path / "run", write_rows(place / "drawings.jsonl", rows))
    assert "tokenq draw --judge JUDGE --pairs P.jsonl makes pairs of them" in told
