"""The demonstration with pictures: the world and its program, one loss over words and steps, credit, the page."""

import json
import math
from dataclasses import replace

import pytest
import torch

from tokenq.cli.main import main
from tokenq.demo.pictures import demonstration
from tokenq.demo.pictures.blame import Drawings, area, pixel_credit, reference_drawings, stage_area
from tokenq.demo.pictures.learning import Strengths, adapted, loss_of, pair_actions, scene_of
from tokenq.demo.pictures.pairs import pair_step_logps, pair_word_logps
from tokenq.demo.pictures.study import QUICK, begun, unrepeated
from tokenq.demo.pictures.world import TEMPLATES, VALUES, drawn, pictures_of, vocabulary, wrong_pixels
from tokenq.listener import SILENCE

pytestmark = pytest.mark.integration

TINY = replace(
    QUICK,
    own=4,
    reading=2,
    captions=2,
    pairs=64,
    validation=12,
    test=24,
    settings={"refiner": [Strengths(0.1)], "image": [Strengths(None, 0.01, 1.0)], "joint": [Strengths(0.1, 0.01)]},
)


@pytest.fixture(scope="module")
def world():
    """Return a world whose models have learnt next to nothing."""
    return begun(TINY, 0, SILENCE)


def test_a_picture_is_a_shape_in_a_colour_in_a_corner():
    red_ring_southeast = pictures_of(torch.tensor([[0, 3, 3]]))[0]
    lit = (red_ring_southeast != -1).nonzero().tolist()
    ring = [(row, column) for row in (5, 6, 7) for column in (5, 6, 7) if (row, column) != (6, 6)]
    assert lit == [[0, row, column] for row, column in ring]  # red alone


def test_the_program_reads_every_picture_through_noise():
    every = torch.cartesian_prod(*[torch.arange(VALUES)] * 3)
    assert torch.equal(pictures_of(every), TEMPLATES)
    noise = 0.3 * torch.randn(TEMPLATES.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn(TEMPLATES + noise), every)


def test_wrong_pixels_are_those_that_differ():
    told = torch.tensor([[0, 0, 0]] * 3)
    seen = pictures_of(torch.tensor([[2, 0, 0], [0, 0, 1], [0, 3, 0]]))  # blue, northeast, a ring
    # All nine pixels of the square; nine that lack and nine too many; the middle alone.
    assert wrong_pixels(seen, told).flatten(1).sum(1).tolist() == [9, 18, 1]


def test_words_are_known_as_often_as_they_should_be():
    words = vocabulary(8, 3)
    assert torch.allclose(words.read.sum(-1), torch.ones(3, 20))
    meant = words.read.gather(-1, words.meant[..., None])[..., 0]
    assert torch.allclose(meant, torch.tensor([0.9] * 4 + [0.4] * 16).expand(3, -1))
    assert len({word for known in words.words for word in known}) == 60
    requests = words.requests(50, torch.Generator().manual_seed(0))
    others = words.paraphrases(requests, torch.Generator().manual_seed(1))
    assert torch.equal(words.values(others), words.values(requests))
    assert requests.max() < 12 <= others.min()  # words that no request for pairs has


def test_no_request_is_in_two_lists():
    lists = unrepeated(vocabulary(4, 0), [100, 30, 30], torch.Generator().manual_seed(0))
    first, second, third = ({tuple(row) for row in rows.tolist()} for rows in lists)
    assert [len(rows) for rows in lists] == [100, 30, 30]
    assert not first & second
    assert not third & (first | second)


def test_a_pair_begins_in_one_noise_and_its_reference_is_who_drew_it(world):
    latents = world.pairs.latents
    assert torch.equal(latents[:, 0, 0], latents[:, 1, 0])
    assert not torch.equal(latents[:, 0, -1], latents[:, 1, -1])
    assert torch.allclose(pair_step_logps(world.start.painter, world.pairs), world.pairs.step_logps, atol=0.01)
    assert torch.allclose(pair_word_logps(world.start.refiner, world.pairs), world.pairs.word_logps, atol=1e-5)


def test_the_reference_has_the_loss_of_a_coin(world):
    loss = loss_of(world.start, world.pairs, Strengths(0.1, 0.01), torch.Generator())
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)


def test_words_and_steps_count_by_their_strengths(world):
    learner, (gains,) = adapted(world.start)
    with torch.no_grad():
        gains += 0.1
        for weight in learner.refiner.model.parameters():
            weight *= 1.1
    pairs = world.pairs.at(torch.arange(5))
    with torch.no_grad():
        words = (pair_word_logps(learner.refiner, pairs) - pairs.word_logps).sum(-1)
        steps = (pair_step_logps(learner.painter, pairs) - pairs.step_logps).sum(-1)
        expected = [
            math.log(1 + math.exp(-(0.2 * (word[0] - word[1]) + 0.03 * (step[0] - step[1]))))
            for word, step in zip(words.tolist(), steps.tolist(), strict=True)
        ]
        loss = loss_of(learner, pairs, Strengths(0.2, 0.03), torch.Generator()).item()
        assert loss == pytest.approx(sum(expected) / 5, abs=1e-3)
        # A part without a strength is not in the loss.
        alone = scene_of(learner, pairs, Strengths(None, 0.03))
        assert alone is not None
        assert alone.policy.logps.shape == (10, pairs.latents.shape[2] - 1)
    assert steps.abs().max() > 0.01
    assert words.abs().max() > 0.01


def test_actions_are_words_and_then_steps():
    actions = pair_actions(2, [3, 2])
    assert actions.shape == (4, 5)
    assert actions.token_columns["segments"].view(4, 5).tolist() == [[0, 0, 0, 1, 1]] * 4
    assert actions.pairs.tolist() == [[0, 1], [2, 3]]
    assert actions.roles == ("chosen", "rejected", "chosen", "rejected")


def test_credit_of_pixels_sums_to_the_log_ratio(world):
    learner, (gains,) = adapted(world.start)
    with torch.no_grad():
        gains += 0.3
    pairs = world.pairs.at(torch.arange(6))
    drawings = Drawings(pairs.requests, pairs.prompts[:, 0], pairs.latents[:, 0])
    with torch.no_grad():
        ratios = (pair_step_logps(learner.painter, pairs) - pairs.step_logps)[:, 0]
    credit = pixel_credit(learner.painter, world.start.painter, drawings)
    assert torch.allclose(credit.sum((2, 3)), ratios, atol=0.02)


def test_areas_by_hand():
    scores, wrong = torch.tensor([[3.0, 2.0], [1.0, 0.0]]), torch.tensor([[True, False], [True, False]])
    assert area(scores, wrong).value == 0.75  # of four comparisons, 1 < 2 alone is lost


def test_a_policy_that_is_its_reference_blames_nobody(world):
    drawings = reference_drawings(world.start, world.test, 5)
    found = stage_area(world.words, world.start, world.start, drawings, Strengths(0.1, 0.01))
    assert found.value == 0.5 or math.isnan(found.value)


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Return two demonstrations of one seed."""
    folders = [tmp_path_factory.mktemp("pictures") / name for name in ("one", "two")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstration, "QUICK", TINY)
        for folder in folders:
            assert main(["demo", "--images", "--quick", "--seed", "2", "--output", str(folder)]) == 0
    return folders


def test_the_table_has_five_systems(twice):
    rows = json.loads((twice[0] / "images.json").read_text())["rows"]
    assert [row["system"] for row in rows] == ["base", "refiner", "image", "separate", "joint"]
    for row in rows:
        low, high = row["interval"]
        assert low <= row["score"] <= high
        assert row["seed"] == 2


def test_a_seed_gives_the_same_table_again(twice):
    one, two = ((folder / "images.json").read_bytes() for folder in twice)
    assert one == two


def test_the_page_shows_pictures(twice):
    page = (twice[0] / "report" / "index.html").read_text()
    assert page.count('<img src="data:image/png;base64,') >= 8 * 6
    assert "Which word, which pixels" in page
    assert "<dt>β</dt>" not in page  # every system has strengths of its own, which the table names
    assert "β 0.05 or 0.1 for words, γ 0.003 or 0.01 for denoising steps" in page
    assert "below each picture the prompt" in page


def test_who_stops_it_is_told_that_it_begins_anew(tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demonstration, "begun", stopped)
    assert main(["demo", "--images", "--output", str(tmp_path / "demo")]) == 130
    told = capsys.readouterr().err
    assert "Nothing is kept of it; the same command begins anew" in told
    assert "goes on" not in told


def test_pictures_have_a_world_of_their_own(capsys):
    assert main(["demo", "--images", "--model", "m", "--data", "d"]) == 2
    assert "--images has a tiny world of its own" in capsys.readouterr().err
