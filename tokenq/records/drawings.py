"""Pictures at rest: what was asked, what was drawn, and how: every latent of the way with its log-density.

A line of a file of drawings is one picture. Its PNG and its trajectory lie in a folder beside the file, and the line
names them relative to the file. Plain Python and numpy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tokenq.errors import UserError
from tokenq.records.schema import SCHEMA, built, check_schema, json_lines, whole


@dataclass(frozen=True)
class Refinement:
    """What a language model made of a prompt, token by token.

    Attributes:
        model: the identity of its weights.
        prompt_ids: what it read.
        token_ids: what it wrote, EOS included where it wrote one.
        logps: log π of each of these tokens, before temperature and filters, in nats.
        pieces: what each token adds to the text.
        terminal: whether it ended by itself.
    """

    model: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    pieces: tuple[str, ...]
    terminal: bool


@dataclass(frozen=True)
class Drawing:
    """A picture, and how it came about.

    Attributes:
        id: of its prompt.
        number: which of the pictures of this prompt it is, from 0.
        prompt: what was asked.
        drawn_prompt: what the image model was given: the refiner's words, else the prompt.
        picture: the PNG, relative to the file of drawings.
        trajectory: the latents and their log-densities (see `read_trajectory`), relative to the file of drawings.
        noise_seed: seed of the initial noise x_T; equal where pictures begin alike.
        seed: seed of the noise of the steps.
        levels: [T+1] noise levels of the schedule from the initial noise to 0: step k goes from levels[k] to
            levels[k+1].
        eta: how much of the DDPM's noise each step adds, above 0.
        guidance: scale of classifier-free guidance; 1 is none.
        sampler: of which Gaussian each step was drawn, a key of `tokenq.diffusion.sampling.SAMPLERS`.
        logps: [T] log-density of each step under the model that drew, in nats, summed over dimensions.
        image_model: the identity of its weights.
        refinement: the refiner's prompt, where there is one.
        reward: what the picture is worth; None where nobody judged it.
        judge: who said so.
    """

    id: str
    number: int
    prompt: str
    drawn_prompt: str
    picture: str
    trajectory: str
    noise_seed: int
    seed: int
    levels: tuple[int, ...]
    eta: float
    guidance: float
    sampler: str
    logps: tuple[float, ...]
    image_model: str
    refinement: Refinement | None = None
    reward: float | None = None
    judge: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the line of a file of drawings."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, record: Any, where: str = "the record") -> "Drawing":
        """Return the drawing of a line.

        Args:
            record: a JSON value.
            where: file and line, for the error.

        Raises:
            UserError: it is no drawing, or one of a newer version.
        """
        check_schema(record, where, "drawing", "tokenq draw")
        try:
            values = {name: value for name, value in record.items() if name != "schema"}
            refined = values["refinement"]
            if refined is not None:
                columns = {name: tuple(refined[name]) for name in ("prompt_ids", "token_ids", "logps", "pieces")}
                refined = built(Refinement, refined | columns)
            columns = {name: tuple(values[name]) for name in ("levels", "logps")}
            return built(cls, values | columns, refinement=refined)
        except (KeyError, TypeError) as problem:
            raise UserError(f"{where} is no drawing: {problem}.", "Write it anew with tokenq draw.") from None


def read_drawings(path: Path) -> Iterator[Drawing]:
    """Yield the drawings of a file.

    Raises:
        UserError: a line is no drawing, or the file was cut.
    """
    lines = json_lines(path, "Write the file anew with tokenq draw.")
    return whole(path, (Drawing.from_dict(record, where) for where, record in lines))


class Trajectory(NamedTuple):
    """The way of a picture from its initial noise.

    Attributes:
        latents: [T+1, *shape] x_T … x_0, float32.
        logps: [T] log-density of each step under the model that drew, in nats, summed over dimensions.
        levels: [T+1] noise levels of the schedule, down to 0.
        eta: how much of the DDPM's noise each step adds.
        guidance: scale of classifier-free guidance.
        sampler: of which Gaussian each step was drawn, a key of `tokenq.diffusion.sampling.SAMPLERS`.
    """

    latents: NDArray[np.float32]
    logps: NDArray[np.float64]
    levels: NDArray[np.int64]
    eta: float
    guidance: float
    sampler: str = "ancestral"


def packed_trajectory(one: Trajectory) -> bytes:
    """Return a trajectory as the bytes of a safetensors file."""
    tensors: dict[str, NDArray[Any]] = {
        "latents": np.ascontiguousarray(one.latents, np.float32),
        "logps": np.ascontiguousarray(one.logps, np.float64),
        "levels": np.ascontiguousarray(one.levels, np.int64),
        "settings": np.array([one.eta, one.guidance], np.float64),
    }
    # One entry: several would come in an order of their own each time.
    found: bytes = save(tensors, {"sampler": one.sampler})
    return found


def read_trajectory(path: Path, where: str = "") -> Trajectory:
    """Return the trajectory of a file.

    Args:
        path: the file.
        where: the row that names it, for the error.

    Raises:
        UserError: there is no such file, or it holds no trajectory, or one with numbers that are not finite.
    """
    told = f"{where}: " if where else ""
    hint = "Draw the picture again with tokenq draw."
    try:
        with safe_open(path, framework="numpy") as file:
            latents, logps, levels, settings = map(file.get_tensor, ("latents", "logps", "levels", "settings"))
            sampler = (file.metadata() or {})["sampler"]
            eta, guidance = map(float, settings)
        found = Trajectory(latents, logps, levels, eta, guidance, sampler)
    except OSError as problem:
        raise UserError(f"{told}the trajectory {path} cannot be read: {problem.strerror or problem}.", hint) from None
    except (SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise UserError(f"{told}{path} holds no trajectory ({problem}).", hint) from None
    steps = len(found.logps)
    if steps < 1 or len(found.latents) != steps + 1 or len(found.levels) != steps + 1:
        counts = f"{len(found.latents)} latents, {len(found.levels)} levels and {steps} log-densities"
        raise UserError(f"{told}{path} holds {counts}: T steps have T + 1, T + 1 and T.", hint)
    if not (np.isfinite(found.latents).all() and np.isfinite(found.logps).all()):
        raise UserError(f"{told}{path} has latents that are not finite.", hint)
    return found


def pairs_of(drawings: Sequence[Drawing]) -> list[dict[str, Any]]:
    """Return rows to train on: of each prompt the best of its pictures against the worst, from the same noise.

    Pictures that begin in different noises are not compared: what the noise is worth would go into the pair. A prompt
    whose pictures are all worth the same gives no pair.

    Args:
        drawings: judged ones; those of a prompt have its id.
    """
    rows = []
    judged = [one for one in drawings if one.reward is not None]
    for _, some in groupby(sorted(judged, key=_start), key=_start):
        ranked = sorted(some, key=lambda one: (-_worth(one), one.number))
        best, worst = ranked[0], ranked[-1]
        if _worth(best) > _worth(worst):
            rows.append(pair_row(best, worst))
    return rows


def pair_row(chosen: Drawing, rejected: Drawing) -> dict[str, Any]:
    """Return a row to train on; its files are named as the drawings name them."""
    row: dict[str, Any] = {"id": chosen.id, "prompt": chosen.prompt}
    row |= {} if chosen.refinement is None else {"prompt_token_ids": list(chosen.refinement.prompt_ids)}
    for side, one in (("chosen", chosen), ("rejected", rejected)):
        row |= {side: one.picture, f"{side}_prompt": one.drawn_prompt, f"{side}_trajectory": one.trajectory}
        row |= {} if one.refinement is None else {f"{side}_token_ids": list(one.refinement.token_ids)}
        row |= {f"{side}_reward": one.reward} if one.reward is not None else {}
    return row


def _start(one: Drawing) -> tuple[str, int]:
    return one.id, one.noise_seed


def _worth(one: Drawing) -> float:
    return 0.0 if one.reward is None else one.reward
