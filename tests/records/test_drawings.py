"""Pictures at rest: lines that come back as they were, trajectories that are refused with their reason, pairs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenq.errors import UserError
from tokenq.records.drawings import (
    Drawing,
    Refinement,
    Trajectory,
    packed_trajectory,
    pairs_of,
    read_drawings,
    read_trajectory,
)

REFINED = Refinement("w1", (1, 2), (3, 4), (-0.5, -0.25), ("red", ""), True)
ONE = Drawing(
    id="a",
    number=0,
    prompt="a dot",
    drawn_prompt="a red dot",
    picture="d/a-0.png",
    trajectory="d/a-0.safetensors",
    noise_seed=7,
    seed=8,
    levels=(10, 5, 0),
    eta=1.0,
    guidance=1.0,
    sampler="flow_sde",
    logps=(-1.5, 2.25),
    image_model="w2",
    refinement=REFINED,
)


def test_a_drawing_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "drawings.jsonl"
    plain = replace(ONE, refinement=None, reward=0.5, judge="p.py:f")
    path.write_text("".join(json.dumps(one.to_dict()) + "\n" for one in (ONE, plain)))
    assert list(read_drawings(path)) == [ONE, plain]


def test_a_line_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "drawings.jsonl"
    path.write_text(json.dumps({**ONE.to_dict(), "eta": "much"}) + "\n")
    with pytest.raises(UserError, match=r"line 1 is no drawing.*eta"):
        list(read_drawings(path))


def test_a_trajectory_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    latents = np.array([[0.1, -3.0], [0.2, 1e-20], [0.3, 7.0]], np.float32)
    way = Trajectory(latents, np.array([-1 / 3, 2.0]), np.array([10, 5, 0]), 0.7, 7.5, "flow_sde")
    path = tmp_path / "t.safetensors"
    path.write_bytes(packed_trajectory(way))
    found = read_trajectory(path)
    assert all(np.array_equal(a, b) for a, b in zip(found[:3], way[:3], strict=True))
    assert found[3:] == (0.7, 7.5, "flow_sde")


@pytest.mark.parametrize(
    ("latents", "logps", "said"),
    [
        (np.array([[0.0], [np.nan], [1.0]]), np.zeros(2), "not finite"),
        (np.zeros((3, 1)), np.zeros(3), "3 latents, 3 levels and 3 log-densities"),
    ],
)
def test_a_broken_trajectory_is_refused(tmp_path: Path, latents, logps, said: str) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(packed_trajectory(Trajectory(latents, logps, np.array([2, 1, 0]), 1.0, 1.0)))
    with pytest.raises(UserError, match=said):
        read_trajectory(path, "rows.jsonl, line 3")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"row 2: .* holds no trajectory"):
        read_trajectory(tmp_path / "t.safetensors", "row 2")
    with pytest.raises(UserError, match="cannot be read"):
        read_trajectory(tmp_path / "absent.safetensors")


def test_the_best_stands_against_the_worst_of_one_noise() -> None:
    def drawn(id_: str, number: int, noise: int, reward: float | None) -> Drawing:
        return replace(ONE, id=id_, number=number, noise_seed=noise, reward=reward, picture=f"{id_}-{number}.png")

    given = [
        *(drawn("a", 0, 1, 0.5), drawn("a", 1, 1, 2.0), drawn("a", 2, 1, -1.0), drawn("a", 3, 1, None)),
        *(drawn("b", 0, 2, 1.0), drawn("b", 1, 2, 1.0)),  # no difference
        *(drawn("c", 0, 3, 0.0), drawn("c", 1, 4, 1.0)),  # two noises
    ]
    (row,) = pairs_of(given)
    assert (row["id"], row["chosen"], row["rejected"]) == ("a", "a-1.png", "a-2.png")
    assert (row["chosen_reward"], row["rejected_reward"]) == (2.0, -1.0)
    assert row["prompt"] == "a dot"
    assert row["chosen_prompt"] == "a red dot"
