"""`tokenq draw`: densities by hand, equal seeds and equal bytes, what is kept of a killed one, pairs, and bad input."""

import inspect
import json
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import two_ranks
from jobs.drawing.two_pixels import dull_model, posterior
from scipy.stats import norm
from tiny import tiny_model, tiny_tokenizer
from toy_image_models import matcher

import tokenq
from tokenq.cli.main import main
from tokenq.diffusion.sampling import Steps
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.errors import UserError
from tokenq.jobs.drawing.config import DrawConfig
from tokenq.jobs.drawing.draw import draw
from tokenq.jobs.drawing.painter import Painter, Seeds, seeds_of
from tokenq.models.identity import ModelIdentity
from tokenq.records.drawings import read_drawings, read_trajectory

ROWS = [{"prompt": f"a {colour} dot"} for colour in ("red", "green", "blue", "grey", "pink")]
SHORT = {"steps": 3, "batch_size": 4, "device": "cpu"}
JUDGE = """
import numpy as np

def redness(prompts, pictures):
    return [float(np.asarray(picture)[..., 0].mean()) for picture in pictures]

def undecided(prompts, pictures):
    return [1.0]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("draw")
    tiny_image_model(["a", "red", "green", "blue", "dot"]).save(root / "model")
    tiny_model("llama", layers=1, vocab_size=48).save_pretrained(root / "refiner")
    tiny_tokenizer("words", texts=("a red green blue grey pink dot",)).save_pretrained(root / "refiner")
    (root / "judge.py").write_text(JUDGE)
    return root


def files_of(path: Path) -> dict[str, bytes]:
    folder = path.with_suffix("")
    return {one.name: one.read_bytes() for one in sorted(folder.iterdir())}


def test_two_steps_of_two_pixels_have_the_densities_of_the_posterior():
    painter = Painter(dull_model([0.5, -1.0]), Steps((2, 1, 0)), ModelIdentity("", "", 0, "", ""), print)
    (_, way), _ = painter.painted(["", ""], [Seeds(1, 2), Seeds(3, 4)])
    x2, x1, x0 = way.latents.astype(np.float64)
    picture = np.array([0.5, -1.0])
    first = norm.logpdf(x1, *posterior(picture, x2)).sum()
    last = norm.logpdf(x0, picture, 0.6).sum()  # the least sd of a last step is σ of the lowest level, √(1 − .64)
    np.testing.assert_allclose(way.logps, [first, last], rtol=1e-5)
    assert x2 == pytest.approx(torch.randn(2, generator=torch.Generator().manual_seed(1)).numpy())


def test_the_keywords_of_the_job_are_the_flags_of_its_command():
    signature = inspect.signature(draw).parameters
    assert {*signature} == {one.name for one in fields(DrawConfig)} | {"listener"}
    for one in fields(DrawConfig):
        known = one.default if one.default is not MISSING else one.default_factory
        known = known() if callable(known) and known is not MISSING else known
        assert signature[one.name].default == (inspect.Parameter.empty if known is MISSING else known)


def test_pictures_of_a_prompt_begin_alike_and_part(place, tmp_path):
    found = tokenq.draw(place / "model", ROWS, tmp_path / "d.jsonl", samples=3, **SHORT).drawings
    assert [(one.prompt, one.number) for one in found] == [(row["prompt"], n) for row in ROWS for n in range(3)]
    ways = [read_trajectory(tmp_path / one.trajectory) for one in found]
    starts, ends = (np.stack([way.latents[at] for way in ways]).reshape(5, 3, -1) for at in (0, -1))
    assert (starts == starts[:, :1]).all()
    assert len(np.unique(starts[:, 0], axis=0)) == 5
    assert len(np.unique(ends.reshape(15, -1), axis=0)) == 15
    assert all(one.logps == tuple(way.logps) for one, way in zip(found, ways, strict=True))
    assert found[0].levels == (100, 67, 33, 0)
    own = seeds_of(0, 0, 3, same_noise=False)
    assert len({one.noise for one in own}) == len({one.steps for one in own}) == 3


def test_side_by_side_is_one_by_one(place, tmp_path):
    together, alone = (
        tokenq.draw(place / "model", ROWS, tmp_path / f"{size}.jsonl", **SHORT | {"batch_size": size}).drawings
        for size in (8, 1)
    )
    for one, other in zip(together, alone, strict=True):
        mine, its = (read_trajectory(tmp_path / each.trajectory) for each in (one, other))
        np.testing.assert_allclose(mine.latents, its.latents, atol=1e-5)
        np.testing.assert_allclose(mine.logps, its.logps, rtol=1e-5, atol=1e-3)


@pytest.mark.integration
def test_a_killed_drawing_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole" / "d.jsonl", tmp_path / "killed" / "d.jsonl"
    more = {"refiner": place / "refiner", "max_new_tokens": 3, **SHORT}
    tokenq.draw(place / "model", ROWS, whole, **more)
    painted, calls = Painter.painted, []

    def dying(self, texts, seeds):
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return painted(self, texts, seeds)

    with monkeypatch.context() as patched:
        patched.setattr(Painter, "painted", dying)
        with pytest.raises(KeyboardInterrupt):
            tokenq.draw(place / "model", ROWS, killed, **more)
        assert not killed.exists()
        tokenq.draw(place / "model", ROWS, killed, **more)
    assert calls == [4, 4, 4, 2]  # two prompts at a time: the first were kept
    assert killed.read_bytes() == whole.read_bytes()
    assert files_of(killed) == files_of(whole)
    before = killed.stat().st_mtime_ns
    tokenq.draw(place / "model", ROWS, killed, **more)
    assert killed.stat().st_mtime_ns == before
    assert sorted(one.name for one in killed.parent.iterdir()) == ["d", "d.jsonl", "d.jsonl.provenance.json"]
    tokenq.draw(
        place / "model", ROWS[:1], killed, **SHORT
    )  # a smaller job of the same name leaves no files of this one
    assert len(files_of(killed)) == 4


def test_what_the_refiner_wrote_is_drawn_and_kept(place, tmp_path):
    found = tokenq.draw(
        place / "model", ROWS[:2], tmp_path / "d.jsonl", refiner=place / "refiner", max_new_tokens=4, **SHORT
    ).drawings
    for one in found:
        how = one.refinement
        assert how is not None
        assert "".join(how.pieces).strip() == one.drawn_prompt
        assert len(how.token_ids) == len(how.logps) == len(how.pieces)
        assert all(value <= 0 for value in how.logps)
    assert [one.prompt for one in found] == ["a red dot"] * 2 + ["a green dot"] * 2
    assert len({one.drawn_prompt for one in found}) > 1


def test_pairs_are_the_best_and_the_worst(place, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ["draw", "--model", place / "model", "--prompts", tmp_path / "prompts.jsonl", "--samples", 3, "--steps", 2]
    words += [
        "--judge",
        f"{place / 'judge.py'}:redness",
        "--pairs",
        tmp_path / "more" / "pairs.jsonl",
        "--device",
        "cpu",
    ]
    assert main([*map(str, words), "--output", str(tmp_path / "d.jsonl")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == [
        f"pairs: 5 of 5 prompts are in {tmp_path / 'more' / 'pairs.jsonl'}",
        f"done: 15 pictures are in {tmp_path / 'd.jsonl'}, with their files in {tmp_path / 'd'}",
    ]
    drawings = list(read_drawings(tmp_path / "d.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "more" / "pairs.jsonl").read_text().splitlines()]
    for row, some in zip(rows, np.array([one.reward for one in drawings]).reshape(5, 3), strict=True):
        assert (row["chosen_reward"], row["rejected_reward"]) == (some.max(), some.min())
        assert row["chosen"].startswith("../d/")
        assert (tmp_path / "more" / row["chosen"]).is_file()
        assert read_trajectory(tmp_path / "more" / row["rejected_trajectory"]).levels.tolist() == [100, 50, 0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"eta": 0}, "no step is a choice"),
        ({"eta": 1.5}, "--eta"),
        ({"steps": 101}, "101 denoising steps, of a schedule with 100 levels"),
        ({"judge": "verifier"}, "cannot judge pictures"),
        ({"judge": "reward_model"}, "go together"),
        ({"reward_model": "clip"}, "go together"),
        ({"judge": "reward_model", "reward_model": "nowhere/at-all"}, "nowhere/at-all cannot judge pictures"),
        ({"pairs": "p.jsonl"}, "--pairs needs --judge"),
        ({"judge": "JUDGE.py:undecided"}, "gave 1 numbers for 4 pictures"),
        ({"judge": "JUDGE.py:redder"}, "redder"),
        ({"model": "nowhere"}, "is no image model"),
    ],
)
def test_bad_input_is_named(place, tmp_path, more, said):
    more = {
        name: str(value).replace("JUDGE.py", str(place / "judge.py")) if name == "judge" else value
        for name, value in more.items()
    }
    with pytest.raises(UserError, match=said):
        tokenq.draw(**{"model": place / "model", "prompts": ROWS, "output": tmp_path / "d.jsonl", **SHORT, **more})


@pytest.mark.integration
def test_a_model_of_pictures_and_texts_judges_by_its_scaled_cosine(place, tmp_path):
    """exp(s) · cos of both embeddings, by the parts of transformers' model on each picture alone."""
    from PIL import Image
    from transformers import AutoProcessor, CLIPModel

    judge = {"judge": "reward_model", "reward_model": str(matcher(tmp_path / "clip"))}
    path = tmp_path / "d.jsonl"
    found = tokenq.draw(place / "model", ROWS[:2], path, pairs=tmp_path / "p.jsonl", **judge, **SHORT).drawings
    model, processor = CLIPModel.from_pretrained(tmp_path / "clip"), AutoProcessor.from_pretrained(tmp_path / "clip")
    for one in found:
        with Image.open(tmp_path / one.picture) as picture, torch.no_grad():
            read = processor(text=[one.prompt], images=[picture.convert("RGB")], return_tensors="pt")
            image = model.visual_projection(model.vision_model(pixel_values=read["pixel_values"]).pooler_output)
            text = model.text_projection(model.text_model(read["input_ids"], read["attention_mask"]).pooler_output)
        cosine = torch.nn.functional.cosine_similarity(image, text).item()
        assert one.reward == pytest.approx(model.logit_scale.exp().item() * cosine, rel=1e-4)
        assert one.judge == judge["reward_model"]
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in rows)


def test_weights_that_are_not_numbers_are_refused(place, tmp_path):
    model = tiny_image_model(["dot"])
    with torch.no_grad():
        model.denoiser.exit.bias[3] = float("nan")
    model.save(tmp_path / "broken")
    with pytest.raises(UserError, match=r"picture 1 of 4 is not finite after step 1 of 3"):
        tokenq.draw(tmp_path / "broken", ROWS, tmp_path / "d.jsonl", **SHORT)


def test_a_refiner_that_writes_nothing_is_refused(place, tmp_path):
    ended = tiny_model("llama", layers=1, vocab_size=48)
    ended.generation_config.eos_token_id = list(range(48))  # whatever is drawn ends it
    ended.save_pretrained(tmp_path / "refiner")
    tiny_tokenizer("words", texts=("a red dot",)).save_pretrained(tmp_path / "refiner")
    with pytest.raises(UserError, match="wrote nothing for any prompt up to the data, row 5"):
        tokenq.draw(place / "model", ROWS, tmp_path / "d.jsonl", refiner=tmp_path / "refiner", **SHORT)


def test_pictures_of_others_are_not_overwritten(place, tmp_path):
    mine = tmp_path / "d" / "000000-0.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(UserError, match="holds files already"):
        tokenq.draw(place / "model", ROWS, tmp_path / "d.jsonl", **SHORT)
    assert mine.read_bytes() == b"mine"
    tokenq.draw(place / "model", ROWS, tmp_path / "d.jsonl", overwrite=True, **SHORT)
    tokenq.draw(place / "model", ROWS, tmp_path / "d.jsonl", seed=1, **SHORT)  # one's own may be drawn anew


@pytest.mark.integration
def test_two_processes_write_the_same_files(place, tmp_path):
    def drawn(path):
        tokenq.draw(place / "model", ROWS, path, **SHORT)
        return 0

    one, two = tmp_path / "one" / "d.jsonl", tmp_path / "two" / "d.jsonl"
    drawn(one)
    ended = two_ranks(lambda: drawn(two), tmp_path)
    assert [rank.code for rank in ended] == [0, 0], ended
    assert two.read_bytes() == one.read_bytes()
    assert files_of(two) == files_of(one)
