"""What other commands make of runs on pictures: they are read, drawn with and exported whole, from any directory."""

import os

import pytest
import yaml
from drawn_pairs import read_rows, write_pairs
from toy_image_models import saved

import tokenq
from tokenq.cli.main import main
from tokenq.diffusion.open import open_image_model
from tokenq.diffusion.pipelines import quiet
from tokenq.jobs.score import score
from tokenq.records.drawings import read_drawings

pytestmark = pytest.mark.integration

SHORT = {"batch_size": 4, "learning_rate": 1e-3, "device": "cpu", "eval_size": 2, "max_steps": 2, "save_steps": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The run of a refiner with an image model, named from their own folder, and of an image model alone."""
    root = write_pairs(tmp_path_factory.mktemp("in use"))
    before = os.getcwd()
    os.chdir(root)
    try:
        both = {"image_model": "image", "segments": {"prompt_refiner": 0.1, "image": 0.02}}
        tokenq.train("lm", "drawn.jsonl", "both", loss="dpo", **both, **SHORT)
        tokenq.train("image", "drawn.jsonl", "alone", loss="dpo", **SHORT)
    finally:
        os.chdir(before)
    return root


@pytest.mark.parametrize("run", ["both", "both/checkpoints/step-2", "alone"])
def test_scoring_a_run_gives_the_log_ratios_that_its_training_held_out(place, tmp_path, run):
    """By the loop's own forward pass, which knows neither words nor maps."""
    found = score(run=place / run, data=place / "drawn.jsonl", output=tmp_path / "t.jsonl", device="cpu")
    traces = {one.trace.id: one.trace for one in found}
    held_out = read_rows(place / run.split("/")[0] / "held_out.jsonl")
    assert len(held_out) == 4
    for row in held_out:
        trace = traces[f"{row['row'].rpartition(' ')[2]}/{row['side']}"]
        assert (trace.beta, trace.image_beta) == ((0.1, 0.1) if run == "alone" else (0.1, 0.02))
        words = sum(trace.word_logps) - sum(trace.word_ref_logps)
        steps = sum(trace.logps) - sum(trace.ref_logps)
        assert len(trace.words) + len(trace.levels) == row["tokens"] if run != "alone" else not trace.words
        assert words + steps == pytest.approx(row["logp"] - row["ref_logp"], abs=2e-4)
        assert abs(steps) > 1e-3
        assert trace.sequence_reward == pytest.approx(trace.beta * words + trace.image_beta * steps, rel=1e-6)


def test_strengths_that_are_asked_for_come_before_those_of_the_run(place):
    asked = {"data": place / "drawn.jsonl", "beta": 0.5, "image_beta": 0.25, "device": "cpu"}
    own, other = (list(score(run=place / "both", **some)) for some in (asked, asked | {"beta": 1.0}))
    assert [(one.trace.beta, one.trace.image_beta) for one in (own[0], other[0])] == [(0.5, 0.25), (1.0, 0.25)]


def test_a_run_draws_with_its_refiner(place, tmp_path, capsys):
    words = ["draw", "--prompts", str(place / "drawn.jsonl"), "--samples", "1", "--steps", "2", "--device", "cpu"]
    for name, models in {
        "run": ["--model", str(place / "both")],
        "named": ["--model", str(place / "both/image_policy"), "--refiner", str(place / "both/policy")],
        "alone": ["--model", str(place / "both/image_policy")],
    }.items():
        assert main([*words, *models, "--output", str(tmp_path / f"{name}.jsonl")]) == 0
    run, named, alone = (list(read_drawings(tmp_path / f"{name}.jsonl")) for name in ("run", "named", "alone"))
    assert [one.drawn_prompt for one in run] == [one.drawn_prompt for one in named]
    assert [one.logps for one in run] == [one.logps for one in named]
    assert all(one.refinement is not None for one in run)
    assert {one.refinement for one in alone} == {None}


def card_of(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


@pytest.mark.parametrize("step", [[], ["--step", "2"]], ids=str)
def test_both_models_of_a_run_are_exported(place, tmp_path, step, capsys):
    assert main(["export", str(place / "both"), *step, "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"exported: the policy after 2 steps, in {tmp_path / 'out'}, "
        f"the image model behind it in {tmp_path / 'out' / 'image_policy'}"
    )
    kinds = [card_of(folder)["pipeline_tag"] for folder in (tmp_path / "out", tmp_path / "out/image_policy")]
    assert kinds == ["text-generation", "text-to-image"]
    own, run = (folder / "image_policy/model.safetensors" for folder in (tmp_path / "out", place / "both"))
    assert own.read_bytes() == run.read_bytes()
    asked = {"data": place / "drawn.jsonl", "device": "cpu", "reference": place / "image"}
    asked |= {"refiner_reference": place / "lm", "beta": 0.1, "image_beta": 0.02}
    apart = score(tmp_path / "out/image_policy", refiner=tmp_path / "out", **asked)
    whole = score(run=place / "both", data=place / "drawn.jsonl", device="cpu")
    assert [one.trace.sequence_reward for one in apart] == [one.trace.sequence_reward for one in whole]


def test_a_pipeline_is_exported_with_all_its_parts(tmp_path):
    image = saved("stable_diffusion", tmp_path / "pipeline")
    pairs = write_pairs(tmp_path)
    tokenq.train(image, pairs / "pairs.jsonl", tmp_path / "run", loss="dpo", **SHORT | {"eval_size": 0})
    tokenq.export(tmp_path / "run", tmp_path / "out")
    policy, out = tmp_path / "run/policy", tmp_path / "out"
    assert card_of(out)["library_name"] == "diffusers"
    parts = {path.relative_to(policy) for path in policy.rglob("*") if path.is_file()}
    assert {path.relative_to(out) for path in out.rglob("*") if path.is_file()} == parts | {
        (out / "tokenq_export.json").relative_to(out)
    }
    with quiet():
        assert open_image_model(out).shape == open_image_model(policy).shape


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export alone --dtype bfloat16 --output out", "--dtype bfloat16 does not go with an image model"),
        ("train --model alone --data drawn.jsonl --output out", "alone/policy?"),
        ("train --model lm --image-model both --data drawn.jsonl --output out", "Did you mean both/image_policy?"),
        ("draw --model . --prompts drawn.jsonl --output out.jsonl", "Did you mean "),
        ("score --run both --prompt hi --response ho", "or the refiner of the run: --policy RUN/policy"),
    ],
)
def test_bad_input_is_named(place, monkeypatch, capsys, words, said):
    monkeypatch.chdir(place)
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err
    assert not (place / "out").exists()


def test_pictures_that_are_read_as_texts_are_told(place, tmp_path, capsys):
    words = ["--data", str(place / "drawn.jsonl"), "--device", "cpu"]
    assert main(["eval", "preference", "--run", str(place / "both"), *words]) == 0
    told = "every response is the name of a picture, and is read as a text"
    assert told in capsys.readouterr().err
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a", "chosen": "see a.png", "rejected": "a.png"}\n')
    models = ["--policy", str(place / "lm"), "--reference", str(place / "lm"), "--output", str(tmp_path / "t.jsonl")]
    assert main(["score", *models, "--data", str(tmp_path / "texts.jsonl")]) == 0
    assert told not in capsys.readouterr().err
