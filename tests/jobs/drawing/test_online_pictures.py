"""`tokenq online` with an image model: credit by hand, pairs of one noise, resuming to the same bits, refusals."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_image_models import matcher

import tokenq
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.errors import UserError
from tokenq.jobs.rollout.pictures.rounds import PictureRounds
from tokenq.records.drawings import pairs_of, read_drawings

pytestmark = pytest.mark.integration

ROWS = [{"prompt": f"a {colour} dot"} for colour in ("red", "green", "blue")]
JUDGE = """
import numpy as np

def redness(prompts, pictures):
    return [float(np.asarray(picture)[..., 0].mean() / 255) for picture in pictures]

def equal(prompts, pictures):
    return [1.0] * len(pictures)
"""
SHORT = {"image_steps": 3, "samples": 4, "batch_size": 12, "rounds": 2, "learning_rate": 1e-4, "device": "cpu"}
SHORT |= {"keep_checkpoints": 1, "schedule": "constant"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("online")
    tiny_image_model(["a", "red", "green", "blue", "dot"]).save(root / "model")
    (root / "judge.py").write_text(JUDGE)
    return root


def learnt(place, output, **more):
    given = {"judge": f"{place / 'judge.py'}:redness", **SHORT, **more}
    return tokenq.online(place / "model", ROWS, output, **given)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_steps_are_credited_with_what_others_of_the_prompt_do_not_get(place, tmp_path):
    """Leave-one-out (2402.14740): the reward less the mean of the three others, without a KL penalty; then β = .5."""
    run = learnt(place, tmp_path / "run", method="rloo", kl="none")
    for number in (1, 2):
        drawings = list(read_drawings(run.folder / "rounds" / f"000{number}" / "drawings.jsonl"))
        rewards = np.array([one.reward for one in drawings]).reshape(3, 4)
        expected = rewards - (rewards.sum(1, keepdims=True) - rewards) / 3
        rows = lines(run.folder / "rounds" / f"000{number}" / "advantages.jsonl")
        found = np.array([row["advantages"] for row in rows])
        np.testing.assert_allclose(found, np.repeat(expected.reshape(12, 1), 3, 1), atol=1e-6)
        np.testing.assert_allclose([row["old_logps"] for row in rows], [one.logps for one in drawings], rtol=1e-4)
        assert len({one.noise_seed for one in drawings}) == 3
    told = [row for row in run.metrics if "round" in row]
    assert [row["round/reward"] for row in told] == [
        pytest.approx(np.mean([one.reward for one in read_drawings(run.folder / "rounds" / name / "drawings.jsonl")]))
        for name in ("0001", "0002")
    ]
    assert told[0]["round/kl"] == pytest.approx(0, abs=1e-3)
    assert told[1]["round/kl"] > 0
    before, after = (load_file(folder / "model.safetensors") for folder in (place / "model", run.policy))
    assert all(not torch.equal(before[name], after[name]) for name in before if "embedding" not in name)


@pytest.mark.slow
def test_rewards_rise(place, tmp_path):
    run = learnt(place, tmp_path / "run", method="grpo", rounds=12, learning_rate=1e-3, samples=8, batch_size=24)
    rows = [row for row in run.metrics if "round" in row]
    assert rows[-1]["round/reward"] > rows[0]["round/reward"] + 2 * rows[0]["round/reward_std"]


def test_a_model_of_pictures_and_texts_judges_rounds(place, tmp_path, monkeypatch):
    monkeypatch.chdir(matcher(tmp_path / "clip").parent)
    judged = {"judge": "reward_model", "reward_model": "clip", "method": "dpo", "rounds": 1}
    run = learnt(place, tmp_path / "run", **judged)
    drawings = list(read_drawings(run.folder / "rounds" / "0001" / "drawings.jsonl"))
    assert {one.judge for one in drawings} == {str(tmp_path / "clip")}
    assert len({one.reward for one in drawings}) == 12
    assert run.metrics[0]["round/pairs"] == 3


def test_pairs_of_one_noise_are_learnt_from(place, tmp_path):
    run = learnt(place, tmp_path / "run", method="dpo", beta=0.01)
    folder = run.folder / "rounds" / "0001"
    assert lines(folder / "pairs.jsonl") == pairs_of(list(read_drawings(folder / "drawings.jsonl")))
    steps = [row for row in run.metrics if "loss" in row]
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)  # the policy is its reference
    assert [row["round/pairs"] for row in run.metrics if "round" in row] == [3, 3]


@pytest.mark.parametrize("method", [pytest.param("dpo", marks=pytest.mark.slow), "grpo"])
def test_a_killed_run_goes_on_to_the_same_bits(place, tmp_path, monkeypatch, method):
    whole = learnt(place, tmp_path / "whole", method=method)
    write = PictureRounds._write

    def dying(self, number, folder):
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, folder)

    with monkeypatch.context() as patched:
        patched.setattr(PictureRounds, "_write", dying)
        with pytest.raises(KeyboardInterrupt):
            learnt(place, tmp_path / "killed", method=method)
    killed = learnt(place, tmp_path / "killed", method=method, resume=True)
    for name, value in load_file(whole.policy / "model.safetensors").items():
        assert torch.equal(value, load_file(killed.policy / "model.safetensors")[name]), name
    rounds = [run.folder / "rounds" / "0002" / "drawings.jsonl" for run in (whole, killed)]
    first, second = ([(one.picture, one.seed, one.logps, one.reward) for one in read_drawings(path)] for path in rounds)
    assert first == second


def test_a_round_that_teaches_nothing_is_said_or_ends_the_run(place, tmp_path):
    judge = f"{place / 'judge.py'}:equal"
    run = learnt(place, tmp_path / "run", method="dpo", judge=judge, rounds=1)
    assert [row["round/pairs"] for row in run.metrics if "round" in row] == [0]
    with pytest.raises(UserError, match="Round 1 gives no pair"):
        learnt(place, tmp_path / "other", method="dpo", judge=judge, on_empty_round="stop")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "ppo"}, "--credit gae needs a value network"),
        ({"method": "selm"}, "--method selm writes or compares more"),
        ({"method": "dice"}, "--method dice writes or compares more"),
        ({"judge": "some-chat-model"}, "cannot judge pictures"),
        ({"eval_size": 1}, "--eval-size is given"),
        ({"pairs": "all"}, "--pairs all is not for pictures yet"),
        ({"image_eta": 0.0}, "image-eta"),
        ({"image_steps": 1000}, "1000 denoising steps, of a schedule with 100 levels"),
    ],
)
def test_what_pictures_cannot_do_is_refused_by_name(place, tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        learnt(place, tmp_path / "run", **more)


def test_clipped_ratios_of_steps_are_ppo_s(place, tmp_path):
    """Several passes over a round: the second begins where π is not the old one any more (DDPO, 2305.13301)."""
    run = learnt(place, tmp_path / "run", method="ppo", credit="leave_one_out", rounds=1, epochs=3.0)
    steps = [row for row in run.metrics if "loss" in row]
    ratios = [next(value for name, value in row.items() if name.startswith("ratio")) for row in steps]
    assert ratios[0] == pytest.approx(1, abs=1e-3)
    assert any(abs(ratio - 1) > 1e-3 for ratio in ratios[1:])


def test_settings_of_images_are_refused_for_texts(tmp_path):
    with pytest.raises(UserError, match="--image-steps is given, and words is no image model"):
        tokenq.online("words", ROWS, tmp_path / "run", image_steps=3)


def test_another_guidance_than_the_run_s_is_said(place, tmp_path):
    run = learnt(place, tmp_path / "run", method="rloo", rounds=1, image_guidance=2.0)
    said = []

    class Listener:
        def say(self, text):
            said.append(text)

        def __call__(self, event):
            pass

    more = {"samples": 1, "steps": 2, "device": "cpu", "listener": Listener()}
    drawn = tokenq.draw(run, ROWS, tmp_path / "own.jsonl", **more)
    assert drawn.drawings[0].guidance == 2
    assert [line for line in said if line.startswith("warning")] == []
    tokenq.draw(run.folder, ROWS, tmp_path / "other.jsonl", guidance=3.0, **more)
    (warning,) = [line for line in said if line.startswith("warning")]
    assert "was trained with guidance 2 and draws with 3" in warning
