"""`tokenq train` on pictures: what a run leaves, and that neither micro-batches nor a resume move a number."""

import json
import math

import datasets
import numpy as np
import pytest
import torch
from drawn_pairs import read_rows, write_pairs, write_rows
from PIL import Image
from safetensors.torch import load_file
from toy_image_models import saved

import tokenq
from tokenq.cli.main import main
from tokenq.diffusion.open import open_image_model
from tokenq.diffusion.pipelines import quiet
from tokenq.rundir import RunDir

pytestmark = pytest.mark.integration

SHORT = {"batch_size": 4, "learning_rate": 1e-4, "device": "cpu", "schedule": "constant", "eval_size": 2}
COST = ("seconds", "peak_memory_gb", "noisy_pictures_per_second")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny image model, a tiny refiner, and pairs."""
    return write_pairs(tmp_path_factory.mktemp("pictures"))


def trained(place, output, data="pairs", **more):
    return tokenq.train(place / "image", place / f"{data}.jsonl", output, **{**SHORT, "max_steps": 3, **more})


def hybrid(place, output, **more):
    both = {"image_model": str(place / "image"), "segments": {"prompt_refiner": 0.1, "image": 0.02}}
    return tokenq.train(place / "lm", place / "drawn.jsonl", output, **{**SHORT, "max_steps": 3, **both, **more})


def image_weights(folder):
    return load_file(folder / "model.safetensors")


def numbers(run):
    """Return the metrics without costs; what is no number (an accuracy before the first update) is left out."""
    known = (row.items() for row in run.metrics)
    return [{name: value for name, value in row if name not in COST and value is not None} for row in known]


def test_a_run_leaves_an_image_model_with_its_card_and_where_it_comes_from(place, tmp_path):
    words = ["train", "--model", str(place / "image"), "--data", str(place / "pairs.jsonl"), "--loss", "dpo"]
    words += ["--output", str(tmp_path / "run"), "--max-steps", "2", "--device", "cpu", "--eval-size", "2"]
    assert main(words) == 0
    run = RunDir(tmp_path / "run")
    model = open_image_model(run.policy)
    assert model.shape == (3, 8, 8)
    before = image_weights(place / "image")
    assert any(not torch.equal(one, before[name]) for name, one in image_weights(run.policy).items())
    card = (run.policy / "README.md").read_text()
    assert "pipeline_tag: text-to-image" in card
    assert "| loss | dpo |" in card
    record = json.loads(run.provenance.read_text())
    assert record["model"]["weights"] == record["reference"]["weights"]
    assert record["data"]["summary"]["pairs"] == 7
    assert record["config"]["learning_rate"] == 1e-5
    lines = read_rows(run.metrics)
    assert lines[0]["eval_rewards/margins"] == 0
    assert lines[1]["rewards/accuracies"] is None  # policy and reference are one function still
    assert {"loss", "kl", "rewards/margins", "rewards/accuracies"} <= lines[2].keys()
    held_out = read_rows(run.held_out)
    assert [line["side"] for line in held_out] == ["chosen", "rejected"] * 2
    assert {line["tokens"] for line in held_out} == {1}


MORE = [pytest.param(loss, marks=pytest.mark.slow) for loss in ("dpo+0.001*sft", "d3po", "ipo", "nca")]


@pytest.mark.parametrize("loss", ["dpo", "aot", *MORE])
def test_micro_batches_do_not_change_a_step(loss, place, tmp_path):
    """By plain gradient descent: AdamW's first steps are signs, which rounding turns where a slope is nearly 0."""
    asked = {"loss": loss, "noise_draws": 2, "optimizer": "sgd", "learning_rate": 1e-2}
    runs = [trained(place, tmp_path / f"{most}", images_per_batch=most, **asked) for most in (4, 99)]
    began, small, large = (image_weights(folder) for folder in (place / "image", *(run.policy for run in runs)))
    for name, one in large.items():
        torch.testing.assert_close(small[name], one, rtol=0, atol=1e-6)
    assert max((one - began[name]).abs().max() for name, one in large.items()) > 1e-4
    for mine, theirs in zip(*map(numbers, runs), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("start", [trained, pytest.param(hybrid, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one_and_its_reference_stays(start, place, tmp_path):
    whole = start(place, tmp_path / "whole", max_steps=4)
    start(place, tmp_path / "parts", max_steps=2)
    parts = start(place, tmp_path / "parts", max_steps=4, resume=True)
    for folder in ("policy", "image_policy"):
        if (whole.folder / folder).exists():
            ours, theirs = (image_weights(run.folder / folder) for run in (parts, whole))
            assert all(torch.equal(one, theirs[name]) for name, one in ours.items())
    steps = [[row for row in numbers(run) if "loss" in row] for run in (parts, whole)]
    assert steps[0] == steps[1]  # log-ratios of steps 3 and 4 among them: against the first weights
    assert steps[0][-1]["kl"] != 0


def test_labelled_pictures_are_learnt_from_with_pictures_of_other_prompts(place, tmp_path):
    run = trained(place, tmp_path / "kto", "labels", loss="kto", images_per_batch=2)
    assert {"rewards/chosen", "rewards/rejected"} <= run.metrics[-2].keys()
    assert read_rows(run.folder / "held_out.jsonl")[1]["side"] is None  # mismatched: another row's picture
    trained(place, tmp_path / "bco", "labels", loss="bco")
    trained(place, tmp_path / "sft", "labels", loss="sft", eval_size=0)


def test_pictures_in_memory_give_what_files_give(place, tmp_path):
    by_name = trained(place, tmp_path / "files")
    rows = read_rows(place / "pairs.jsonl")

    kinds = {
        "pictures": Image.open,
        "cells": lambda path: {"bytes": path.read_bytes(), "path": None},
        "paths": str,
    }
    forms = {
        name: [row | {side: held(place / row[side]) for side in ("chosen", "rejected")} for row in rows]
        for name, held in kinds.items()
    }
    table = datasets.Dataset.from_list(forms["cells"])
    forms["table"] = table.cast_column("chosen", datasets.Image()).cast_column("rejected", datasets.Image())
    for name, given in forms.items():
        run = tokenq.train(place / "image", given, tmp_path / name, **SHORT, max_steps=3)
        ours, theirs = image_weights(run.policy), image_weights(by_name.policy)
        assert all(torch.equal(one, theirs[key]) for key, one in ours.items()), name


def test_trajectories_are_taken_where_every_picture_has_one(place, tmp_path):
    run = trained(place, tmp_path / "auto", "drawn")
    (line,) = {row["tokens"] for row in read_rows(run.folder / "held_out.jsonl")}
    assert line == 3  # steps
    assert open_image_model(run.policy).guidance == 1.0
    run = trained(place, tmp_path / "error", "drawn", image_term="error", noise_draws=5)
    assert {row["tokens"] for row in read_rows(run.folder / "held_out.jsonl")} == {5}


def test_both_models_of_a_hybrid_are_trained_at_their_own_rates_and_told_apart(place, tmp_path):
    run = hybrid(place, tmp_path / "both", image_learning_rate=1e-3)
    last = [row for row in run.metrics if "loss" in row][-1]
    assert (last["learning_rate"], last["image/learning_rate"]) == (1e-4, 1e-3)
    for name in ("rewards/margins", "rewards/accuracies", "rewards/margin_sd", "kl"):
        assert {f"{name}/prompt_refiner", f"{name}/image"} <= last.keys()
    parts = last["rewards/margins/prompt_refiner"] + last["rewards/margins/image"]
    assert parts == pytest.approx(last["rewards/margins"], abs=1e-5)
    assert "eval_rewards/margin_sd/image" in run.metrics[-1]
    assert open_image_model(run.folder / "image_policy").shape == (3, 8, 8)
    assert (run.policy / "config.json").exists()
    checkpoint = RunDir(run.folder).checkpoint(3)
    assert open_image_model(checkpoint / "image_policy").shape == (3, 8, 8)


@pytest.mark.slow
def test_a_strength_of_zero_leaves_a_part_as_it_was(place, tmp_path):
    run = hybrid(place, tmp_path / "words", segments={"prompt_refiner": 0.1, "image": 0.0}, weight_decay=0.0)
    before = image_weights(place / "image")
    assert all(torch.equal(one, before[name]) for name, one in image_weights(run.image_policy).items())
    run = hybrid(place, tmp_path / "image", segments={"prompt_refiner": 0.0, "image": 0.02})
    before = load_file(place / "lm" / "model.safetensors")
    assert all(torch.equal(one, before[name]) for name, one in load_file(run.policy / "model.safetensors").items())


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A tiny Stable Diffusion, and pairs of pictures of its size."""
    root = tmp_path_factory.mktemp("pipeline")
    saved("stable_diffusion", root / "image")
    rng = np.random.default_rng(0)
    for number in range(4):
        for side in ("chosen", "rejected"):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(root / f"{number}_{side}.png")
    rows = [
        {"prompt": ("red square", "blue cross")[n % 2], **{s: f"{n}_{s}.png" for s in ("chosen", "rejected")}}
        for n in range(4)
    ]
    write_rows(root / "pairs.jsonl", rows)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"lora_rank": 2}, {"lora_rank": 2, "dtype": "bfloat16"}], ids=str)
def test_a_pipeline_is_trained_resumed_and_loaded_by_diffusers(more, pipeline, tmp_path):
    from diffusers import DiffusionPipeline

    more = {**more, "eval_size": 0, "learning_rate": 1e-3, "batch_size": 2}
    whole = trained(pipeline, tmp_path / "whole", max_steps=3, **more)
    trained(pipeline, tmp_path / "parts", max_steps=2, **more)
    parts = trained(pipeline, tmp_path / "parts", max_steps=3, resume=True, **more)
    assert numbers(whole) == numbers(parts)
    weights = "unet/diffusion_pytorch_model.safetensors"
    ours, theirs, before = (load_file(folder / weights) for folder in (parts.policy, whole.policy, pipeline / "image"))
    assert all(torch.equal(one, theirs[name]) for name, one in ours.items())
    assert any(not torch.equal(one.float(), before[name]) for name, one in ours.items())
    with quiet():
        dtype = torch.bfloat16 if more.get("dtype") else torch.float32
        loaded = DiffusionPipeline.from_pretrained(parts.policy, torch_dtype=dtype)
        (picture,) = loaded("red square", num_inference_steps=2, output_type="pil").images
    assert picture.size == (8, 8)
    at_start = next(row for row in whole.metrics if "loss" in row)
    assert at_start["loss"] == pytest.approx(math.log(2), abs=1e-6)  # below an adapter the reference is the base


@pytest.mark.slow
def test_prompts_that_the_text_encoder_cuts_are_said(pipeline, tmp_path):
    rows = read_rows(pipeline / "pairs.jsonl")
    rows[0]["prompt"] = "red " * 60
    said = []
    told = type("Told", (), {"__call__": lambda self, event: None, "say": lambda self, text: said.append(text)})()
    write_rows(pipeline / "long.jsonl", rows)
    trained(pipeline, tmp_path / "run", "long", eval_size=0, listener=told)
    (warning,) = [line for line in said if "are cut" in line]
    assert warning.startswith("warning: The prompt 'red red")


@pytest.mark.slow
def test_the_recipe_for_stable_diffusion_runs_two_steps(pipeline, tmp_path):
    words = [
        "train",
        "--config",
        "recipes/images/sd15_lora_dpo.yaml",
        "--model",
        str(pipeline / "image"),
        "--device",
        "cpu",
    ]
    words += ["--data", str(pipeline / "pairs.jsonl"), "--output", str(tmp_path / "run"), "--eval-size", "1"]
    assert main([*words, "--max-steps", "2", "--warmup-steps", "1"]) == 0
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row] == [1, 2]
