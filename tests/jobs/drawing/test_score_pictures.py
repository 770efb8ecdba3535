"""`tokenq score` on rows with images: credit of pixels by hand, words before steps, resuming, exports, bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from jobs.drawing.two_pixels import PRODUCTS, dull_model, posterior
from PIL import Image
from scipy.stats import norm
from tiny import tiny_model, tiny_tokenizer

import tokenq
from tokenq.cli.main import main
from tokenq.diffusion.sampling import Steps
from tokenq.diffusion.schedule import Schedule
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.errors import UserError
from tokenq.jobs.drawing.painter import Painter, Seeds
from tokenq.jobs.drawing.reading import PictureReader
from tokenq.jobs.drawing.seen import SeenPicture
from tokenq.jobs.score import score
from tokenq.models.identity import ModelIdentity
from tokenq.records.drawings import Trajectory, packed_trajectory, read_drawings, read_trajectory
from tokenq.records.picture_traces import read_picture_traces, read_pictures

POLICY, REFERENCE = np.array([0.5, -1.0]), np.array([0.25, 0.0])
GREY = Image.fromarray(np.array([[51, 204]], np.uint8))
WAY = np.array([[1.5, -0.5], [0.75, -0.25], [0.5, 0.125]], np.float32)
SHORT = {"steps": 3, "batch_size": 4, "device": "cpu"}


def reader(**more):
    models = [dull_model(one.tolist()) for one in (POLICY, REFERENCE)]
    return PictureReader(*models, None, **{"draws": 2, "seed": 0, "say": print, **more})


def seen(trajectory=None):
    return SeenPicture("1", "a dot", "a dot", GREY, trajectory, None, "row 1")


def test_credit_of_two_pixels_in_two_steps():
    way = Trajectory(WAY, np.zeros(2), np.array([2, 1, 0]), 1.0, 1.0)
    found = reader().steps(seen(way), 0)
    x2, x1, x0 = WAY.astype(np.float64)
    by_step = [
        [norm.logpdf(x1, *posterior(picture, x2)), norm.logpdf(x0, picture, 0.6)] for picture in (POLICY, REFERENCE)
    ]
    np.testing.assert_allclose(found.logps, np.sum(by_step[0], 1), rtol=1e-6)
    np.testing.assert_allclose(found.ref_logps, np.sum(by_step[1], 1), rtol=1e-6)
    np.testing.assert_allclose(found.maps[:, 0], np.subtract(*by_step), rtol=1e-5)
    assert (found.form, found.levels, found.maps.shape) == ("trajectory", (2, 1), (2, 1, 2))


def test_credit_without_a_trajectory_is_of_denoising_errors():
    """½ ∫ dλ (‖ε − ε̂_ref‖² − ‖ε − ε̂‖²) by the trapezoid rule over levels 2 and 1, where ε − ε̂ = (α/σ)(x̂_0 − x_0)."""
    found = reader().steps(seen(), 0)
    ratio = np.array([share / (1 - share) for share in (PRODUCTS[2], PRODUCTS[1])])
    picture = np.array([0.2, 0.8])
    gain = (REFERENCE - picture) ** 2 - (POLICY - picture) ** 2
    between = np.log(ratio[1]) - np.log(ratio[0])
    assert (found.form, found.levels) == ("errors", (2, 1))
    np.testing.assert_allclose(found.maps[:, 0], 0.5 * between / 2 * ratio[:, None] * gain, rtol=1e-5)
    np.testing.assert_allclose(found.logps - found.ref_logps, found.maps.sum((1, 2)), rtol=1e-5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("score")
    for name, seed in (("policy", 1), ("reference", 0)):
        tiny_image_model(["a", "red", "green", "blue", "dot"], seed).save(root / name)
        tiny_model("llama", layers=1, vocab_size=48, seed=seed).save_pretrained(root / f"{name}-words")
        tiny_tokenizer("words", texts=("a red green blue dot",)).save_pretrained(root / f"{name}-words")
    (root / "judge.py").write_text("def first(prompts, pictures):\n    return list(range(len(pictures)))\n")
    rows = [{"prompt": "a red dot"}, {"prompt": "a blue dot"}]
    more = {"refiner": root / "reference-words", "judge": f"{root / 'judge.py'}:first", "pairs": root / "p.jsonl"}
    tokenq.draw(root / "reference", rows, root / "d.jsonl", max_new_tokens=4, **more, **SHORT)
    return root


def words(place, **more):
    given = {"policy": place / "policy", "reference": place / "reference", "data": place / "d.jsonl", "device": "cpu"}
    told = [(f"--{name.replace('_', '-')}", str(value)) for name, value in (given | more).items()]
    return ["score", *[word for pair in told for word in pair]]


def test_words_and_steps_are_one_sequence(place, tmp_path, capsys):
    both = {"refiner": place / "policy-words", "refiner_reference": place / "reference-words"}
    path = tmp_path / "t.jsonl"
    assert main(words(place, output=path, beta=0.5, image_beta=0.25, **both)) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "data: 4 pictures, 4 of them with their trajectories"
    assert said[-1] == f"done: the traces of 4 pictures are in {path}, with their files in {tmp_path / 't'}"
    drawings = list(read_drawings(place / "d.jsonl"))
    for one, drawn in zip(read_pictures(path), drawings, strict=True):
        trace = one.trace
        # The reference is what wrote and drew: it says again what it said then.
        assert drawn.refinement is not None
        assert trace.word_ref_logps == pytest.approx(drawn.refinement.logps, abs=1e-4)
        assert trace.ref_logps == pytest.approx(drawn.logps, rel=1e-5)
        assert trace.drawn_prompt == drawn.drawn_prompt
        assert len(trace.prefix_values) == len(trace.words) + 3 + 1
        ratios = np.subtract(trace.word_logps, trace.word_ref_logps).sum() * 0.5
        ratios += np.subtract(trace.logps, trace.ref_logps).sum() * 0.25
        assert trace.sequence_reward == pytest.approx(ratios)
        assert one.maps.shape == (3, 8, 8)
        assert one.maps.sum((1, 2)) == pytest.approx(trace.step_rewards, rel=1e-4)
    row = json.loads(path.read_text().splitlines()[0])
    assert row["sequence_reward"] == pytest.approx(sum(row["word_rewards"]) + sum(row["step_rewards"]))


@pytest.mark.integration
def test_pairs_have_two_traces_a_row(place, tmp_path):
    found = list(score(place / "policy", place / "p.jsonl", reference=place / "reference", device="cpu"))
    assert [one.trace.id for one in found] == ["1/chosen", "1/rejected", "2/chosen", "2/rejected"]
    texts = {"refiner": place / "policy-words", "refiner_reference": place / "reference-words"}
    read = list(score(place / "policy", place / "p.jsonl", reference=place / "reference", device="cpu", **texts))
    assert all(len(one.trace.words) == len(one.trace.word_logps) for one in read)


def test_a_killed_scoring_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "whole" / "whole.jsonl"
    assert main(words(place, output=whole)) == 0
    steps = PictureReader.steps

    def dying(self, seen, place):
        if place == 2:
            raise KeyboardInterrupt
        return steps(self, seen, place)

    with monkeypatch.context() as patched:
        patched.setattr(PictureReader, "steps", dying)
        assert main(words(place, output=killed)) == 130
    assert not killed.exists()
    assert main(words(place, output=killed)) == 0
    assert killed.read_bytes() == whole.read_bytes()
    for one in read_picture_traces(whole):
        for name in (one.picture, one.maps):
            assert (killed.parent / name).read_bytes() == (whole.parent / name).read_bytes()


def test_maps_are_exported_as_pictures(place, tmp_path):
    assert main(words(place, data=place / "p.jsonl", png=tmp_path / "maps", html=tmp_path / "p.html")) == 0
    names = sorted(one.name for one in (tmp_path / "maps").iterdir())
    assert len(names) == 4 * (1 + 1 + 3)
    assert names[:3] == [
        f"000000-1-chosen-{what}.png" for what in ("picture", "step-001-level-100", "step-002-level-67")
    ]
    (one, *_) = score(place / "policy", place / "p.jsonl", reference=place / "reference", device="cpu")
    with Image.open(tmp_path / "maps" / "000000-1-chosen-sum.png") as shown:
        pixels = np.asarray(shown).astype(int)
    assert pixels.shape == (256, 256, 3)
    credit = one.maps.sum(0)
    best, worst = (np.unravel_index(at, credit.shape) for at in (credit.argmax(), credit.argmin()))
    deepest = best if credit.max() > -credit.min() else worst
    expected = (33, 102, 172) if deepest == best else (230, 97, 1)
    assert tuple(pixels[deepest[0] * 32 + 5, deepest[1] * 32 + 5]) == expected
    page = (tmp_path / "p.html").read_text()
    assert page.count("data:image/png;base64,") == 4 * 5
    assert "<script" not in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"figure": "f.png"}, "--figure does not go with an image model"),
        ({"output": "t.parquet"}, "traces of pictures have another form"),
        ({"refiner": "r"}, "belong together"),
        ({"reference": None}, "read against a reference"),
        ({"policy": "POLICY-words"}, "--png is for images"),
        ({"data": [{"prompt": "a", "picture": "absent.png"}]}, "row 1.*absent.png"),
        ({"data": [{"prompt": "a", "picture": "judge.py"}]}, "cannot be read as an image"),
        ({"data": [{"prompt": "a", "text": "b"}]}, "none of the columns 'picture'"),
    ],
)
def test_bad_input_is_named(place, tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(place)
    if more.get("policy"):
        more = {"policy": place / "policy-words", "reference": None, "png": tmp_path, "data": [{"prompt": "a"}]}
    given = {"policy": place / "policy", "reference": place / "reference", "data": place / "d.jsonl", **more}
    with pytest.raises(UserError, match=said):
        score(**given, device="cpu")


def test_models_of_other_sizes_are_refused(place, tmp_path):
    tiny_image_model(["dot"], shape=(3, 4, 4)).save(tmp_path / "small")
    with pytest.raises(UserError, match="draw other sizes"):
        score(place / "policy", place / "d.jsonl", reference=tmp_path / "small", device="cpu")
    with pytest.raises(UserError, match=r"latents of \(3, 8, 8\), and .*small of \(3, 4, 4\)"):
        score(tmp_path / "small", place / "d.jsonl", reference=tmp_path / "small", device="cpu")


def test_numbers_that_are_not_finite_are_refused(place, tmp_path):
    broken = tiny_image_model(["a", "red", "green", "blue", "dot"], 1)
    with torch.no_grad():
        broken.denoiser.exit.bias[0] = float("inf")
    broken.save(tmp_path / "broken")
    with pytest.raises(UserError, match="is not finite"):
        score(tmp_path / "broken", place / "d.jsonl", reference=place / "reference", device="cpu")


def test_pictures_of_a_flow_are_drawn_kept_and_read_by_one_sampler(tmp_path):
    """Two steps of dx = [v + g²/(2t) ε̂] dt + g dw with g² = 2 η² t/(1 − t), from t = .8 to .4 to 0, by hand."""
    times = torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64)
    policy, other = (
        replace(dull_model(one.tolist()), schedule=Schedule(1 - times, times, "flow", "x0"))
        for one in (POLICY, REFERENCE)
    )
    painter = Painter(policy, Steps((2, 1, 0), 0.5, 1.0, "flow_sde"), ModelIdentity("", "", 0, "", ""), print)
    ((_, drawn),) = painter.painted([""], [Seeds(1, 2)])
    (tmp_path / "t.safetensors").write_bytes(packed_trajectory(drawn))
    way = read_trajectory(tmp_path / "t.safetensors")
    x2, x1, x0 = way.latents.astype(np.float64)
    expected = []
    for t, diffusion, before, after in ((0.8, 2.0, x2, x1), (0.4, 1 / 3, x1, x0)):
        noise = (before - (1 - t) * POLICY) / t
        mean = before - 0.4 * (noise - POLICY + diffusion / (2 * t) * noise)
        expected.append(norm.logpdf(after, mean, np.sqrt(0.4 * diffusion)).sum())
    np.testing.assert_allclose(way.logps, expected, rtol=1e-5)
    found = PictureReader(policy, other, None, draws=2, seed=0, say=print).steps(seen(way), 0)
    np.testing.assert_allclose(found.logps, expected, rtol=1e-5)


def test_a_sampler_of_flows_is_refused_for_other_models(place, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a dot"}\n')
    asked = ["draw", "--model", place / "policy", "--prompts", rows, "--output", tmp_path / "f.jsonl"]
    assert main([str(word) for word in [*asked, "--device", "cpu", "--sampler", "flow_sde"]]) == 2
    assert "'flow_sde' is for flow schedules; that of" in capsys.readouterr().err
    assert not (tmp_path / "f.jsonl").exists()
