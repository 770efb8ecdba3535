"""What the judged pictures of a round teach: pairs from one noise, or an advantage for every denoising step."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenq.core.tensors import Actions
from tokenq.diffusion.batch import PictureBatch
from tokenq.diffusion.rows import PictureGroup, PictureResponse
from tokenq.files import JsonLines, write_json_lines
from tokenq.records.drawings import Drawing, pairs_of, read_trajectory
from tokenq.records.examples import Role
from tokenq.rollout.advantages import JudgedTokens, credited, without_signal
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.credits import is_grouped
from tokenq.training.source import Part

Read = Callable[[PictureBatch], Tensor]
"""Log-probs of the actions of a batch, without a graph."""


class Models(NamedTuple):
    """The models of a run as they read pictures at the end of a round.

    Attributes:
        policy: log p of the steps, as the policy is.
        reference: log p_ref of the same steps.
        pack: parts → a batch.
        device: where they compute.
    """

    policy: Read
    reference: Read
    pack: Callable[[Sequence[Part]], PictureBatch]
    device: str


class PictureLesson(NamedTuple):
    """How a round of pictures ends.

    Attributes:
        noun: what is counted.
        write: (folder of the round, its drawings) → writes what is learnt, and returns numbers to be said.
        read: (folder of the round, its drawings) → what the trainer sees, as it was written to the last bit.
    """

    noun: str
    write: Callable[[Path, Sequence[Drawing]], dict[str, float]]
    read: Callable[[Path, Sequence[Drawing]], list[PictureGroup]]


PAIRS, ADVANTAGES = "pairs.jsonl", "advantages.jsonl"


def lesson_of_pairs(config: OnlineConfig, models: Models) -> PictureLesson:
    """Return how rounds end in pairs: the best picture of a prompt against the worst, from the same noise."""
    del config

    def write(place: Path, drawings: Sequence[Drawing]) -> dict[str, float]:
        rows = pairs_of(drawings)
        write_json_lines(place / PAIRS, rows)
        prompts = len({one.id for one in drawings})
        return {"kl": _kl(*_both(place, drawings, models)), "pairs": float(len(rows)), "ties": 1 - len(rows) / prompts}

    def read(place: Path, drawings: Sequence[Drawing]) -> list[PictureGroup]:
        found = []
        for row in JsonLines(place / PAIRS).read():
            sides: tuple[Role, Role] = ("chosen", "rejected")
            responses = tuple(
                _response(place, row[f"{side}_trajectory"], row[f"{side}_prompt"], {}, side) for side in sides
            )
            found.append(PictureGroup(row["prompt"], responses, True, f"{place / PAIRS}, prompt {row['id']}"))
        return found

    return PictureLesson("pairs", write, read)


def lesson_of_advantages(config: OnlineConfig, models: Models) -> PictureLesson:
    """Return how rounds end in advantages: the credit of text, with steps as tokens."""

    def write(place: Path, drawings: Sequence[Drawing]) -> dict[str, float]:
        names = {name: number for number, name in enumerate(dict.fromkeys(one.id for one in drawings))}
        logps, ref_logps = _both(place, drawings, models)
        judged = JudgedTokens(
            torch.tensor([one.reward for one in drawings], dtype=torch.float64),
            torch.tensor([names[one.id] for one in drawings]),
            torch.ones_like(logps, dtype=torch.bool),
            logps,
            ref_logps,
        )
        found = credited(judged, config, config.beta or 0.0)
        idle = without_signal(judged, found.advantages, grouped=is_grouped(config))
        columns = {"advantages": found.advantages, "old_logps": logps}
        write_json_lines(
            place / ADVANTAGES,
            (
                {"id": one.id, "number": one.number}
                | {name: column[at].float().tolist() for name, column in columns.items()}
                for at, one in enumerate(drawings)
            ),
        )
        told = {"kl": _kl(logps, ref_logps), "responses": float(len(drawings)), "without_signal": sum(idle) / len(idle)}
        return {**found.numbers, **told}

    def read(place: Path, drawings: Sequence[Drawing]) -> list[PictureGroup]:
        columns = [
            {name: np.array(row[name], np.float32) for name in ("advantages", "old_logps")}
            for row in JsonLines(place / ADVANTAGES).read()
        ]
        return _groups(place, drawings, columns)

    return PictureLesson("responses", write, read)


LESSONS = {"pairs": lesson_of_pairs, "advantages": lesson_of_advantages}
"""How a round ends, by what its method learns from."""


def _both(place: Path, drawings: Sequence[Drawing], models: Models) -> tuple[Tensor, Tensor]:
    """Return [N, T] log-probs of all steps under policy and reference."""
    groups = _groups(place, drawings, [{} for _ in drawings])
    return _read(models.policy, groups, models), _read(models.reference, groups, models)


def _kl(logps: Tensor, ref_logps: Tensor) -> float:
    """Return the mean log-ratio of whole pictures, in nats: an estimate of KL(p‖p_ref) from the policy's own draws."""
    return float((logps - ref_logps).sum(1).mean())


def _groups(
    place: Path, drawings: Sequence[Drawing], columns: Sequence[Mapping[str, np.ndarray[Any, Any]]]
) -> list[PictureGroup]:
    """Return the pictures of each prompt as a group; drawings of a prompt stand together."""
    found: dict[str, list[PictureResponse]] = {}
    prompts = {one.id: one.prompt for one in drawings}
    for one, own in zip(drawings, columns, strict=True):
        found.setdefault(one.id, []).append(_response(place, one.trajectory, one.drawn_prompt, own, "plain"))
    return [
        PictureGroup(prompts[name], tuple(some), False, f"{place.name}, prompt {name}") for name, some in found.items()
    ]


def _response(
    place: Path, trajectory: str, drawn: str, columns: Mapping[str, np.ndarray[Any, Any]], role: Role
) -> PictureResponse:
    way = read_trajectory(place / trajectory)
    return PictureResponse(way.latents, drawn, len(way.logps), role, None, columns)


def _read(read: Read, groups: Sequence[PictureGroup], models: Models) -> Tensor:
    """Return [N, T] log-probs of the steps of all pictures, float64, group by group."""
    rows = []
    for at, group in enumerate(groups):
        batch = models.pack([Part(group, at, tuple(range(len(group.responses))))]).to(models.device)
        rows.append(_by_response(read(batch), batch.actions))
    return torch.cat(rows)


def _by_response(logps: Tensor, actions: Actions) -> Tensor:
    return logps.detach().double().cpu().view(*actions.shape)
