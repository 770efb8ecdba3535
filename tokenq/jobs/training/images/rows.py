"""Rows with pictures to groups: which pictures a loss learns from, and what is wrong with a row."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tokenq.data.bad_rows import BadRowsError, UnusableRow
from tokenq.data.files.local import Row
from tokenq.data.layouts.columns import each_renamed
from tokenq.data.turns import BadRow
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.rows import PictureGroup, PictureResponse
from tokenq.diffusion.sampling import Steps
from tokenq.errors import UserError
from tokenq.jobs.training.images.cells import FolderRow, ids_of, picture_of, trajectory_of, without_fault
from tokenq.records.drawings import Trajectory
from tokenq.records.examples import Role

if TYPE_CHECKING:
    from PIL.Image import Image

Sides = Sequence[tuple[Role, str]]
"""(the part that a picture plays, its column) of each picture of a row."""


def _pairs(values: Mapping[str, Any]) -> Sides:
    if not {"chosen", "rejected"} <= values.keys():
        raise BadRow("no pair", "it has no columns 'chosen' and 'rejected'", _hint(values))
    return [("chosen", "chosen"), ("rejected", "rejected")]


def _labelled(values: Mapping[str, Any]) -> Sides:
    if {"chosen", "rejected"} <= values.keys():
        return [("chosen", "chosen"), ("rejected", "rejected")]
    if not {"completion", "label"} <= values.keys():
        raise BadRow("no label", "it has no columns 'completion' and 'label', nor a pair", _hint(values))
    label = values["label"]
    if not (isinstance(label, bool) or (isinstance(label, int) and label in (0, 1))):
        raise BadRow("no label", f"its label is {label!r}", "A label is true or false.")
    return [("chosen" if label else "rejected", "completion")]


def _responses(values: Mapping[str, Any]) -> Sides:
    column = "chosen" if "chosen" in values else "completion"
    if column not in values:
        raise BadRow("no picture", "it has no column 'completion' or 'chosen'", _hint(values))
    return [] if column == "completion" and values.get("label") in (False, 0) else [("plain", column)]


def _hint(values: Mapping[str, Any]) -> str:
    """Return what to do with a row that lacks columns."""
    if {"drawn_prompt", "noise_seed"} <= values.keys():
        return "These are drawings; tokenq draw --judge JUDGE --pairs P.jsonl makes pairs of them."
    return "Rename the columns with --columns, such as --columns chosen=THEIRS."


SELECTIONS: Mapping[str, Callable[[Mapping[str, Any]], Sides]] = {
    "pairs": _pairs,
    "labelled": _labelled,
    "responses": _responses,
}
"""By the selection that a loss asks for: the pictures of a row, and the part that each plays."""


class Side(NamedTuple):
    """A picture of a row.

    Attributes:
        role: the part that it plays.
        picture: itself.
        drawn_prompt: what the image model was given for it.
        trajectory: the way to it, None where none is stored.
        token_ids: `drawn_prompt` as a refiner sampled it; empty where nobody knows.
    """

    role: Role
    picture: "Image"
    drawn_prompt: str
    trajectory: Trajectory | None
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class PictureRow:
    """A row that was read.

    Attributes:
        prompt: what was asked.
        sides: its pictures.
        where: origin for messages.
        prompt_ids: what the refiner read when it wrote the words of the pictures; empty where nobody knows.
    """

    prompt: str
    sides: tuple[Side, ...]
    where: str
    prompt_ids: tuple[int, ...] = ()


class Found(NamedTuple):
    """What was read of a source.

    Attributes:
        rows: those that can be used.
        read: how many there were.
        dropped: what was left out, by reason.
    """

    rows: list[PictureRow]
    read: int
    dropped: Counter[str]


def read_pictures(rows: Sequence[Row], selection: str, columns: Mapping[str, str], bad_rows: str) -> Found:
    """Return the rows of a source with their pictures.

    Args:
        rows: as the source has them.
        selection: a key of `SELECTIONS`.
        columns: the data set's names for columns of ours.
        bad_rows: "error" or "drop".

    Raises:
        BadRowsError: a row cannot be used, and is not to be left out.
    """
    kept: list[PictureRow] = []
    bad: list[UnusableRow] = []
    dropped: Counter[str] = Counter()
    for place, row in enumerate(each_renamed(rows, columns)):
        try:
            found = _read(without_fault(row), SELECTIONS[selection])
        except BadRow as problem:
            bad.append(UnusableRow(place, row.where, problem))
            continue
        if found.sides:
            kept.append(found)
        else:
            dropped["rejected responses, which are not imitated"] += 1
    if bad and bad_rows == "error":
        raise BadRowsError(bad, len(rows))
    dropped.update(one.problem.reason for one in bad)
    if not kept:
        raise UserError(f"Nothing is left of {len(rows)} rows: {_told(dropped)}.", "Give rows with pictures.")
    return Found(kept, len(rows), dropped)


def _told(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "there are none"


def _read(row: FolderRow, select: Callable[[Mapping[str, Any]], Sides]) -> PictureRow:
    """Return a row with its pictures."""
    prompt = row.values.get("prompt")
    if not isinstance(prompt, str):
        raise BadRow("no prompt", f"its prompt is {'missing' if prompt is None else f'a {type(prompt).__name__}'}")
    sides = tuple(_side(row, role, column, prompt) for role, column in select(row.values))
    sizes = {side.picture.size for side in sides}
    if len(sizes) > 1:
        told = " and ".join(f"{width}×{height}" for width, height in (side.picture.size for side in sides))
        raise BadRow("pictures of unequal sizes", f"its pictures have {told} pixels", "Resize them alike.")
    ways = {_how(side.trajectory) for side in sides}
    if len(ways) > 1:
        told = "; ".join(map(_told_way, (side.trajectory for side in sides)))
        hint = "Draw both sides with the same steps, sampler, eta and guidance (tokenq draw)."
        raise BadRow("trajectories drawn differently", f"its trajectories were drawn differently: {told}", hint)
    if len(sides) == 2 and sides[0].drawn_prompt == sides[1].drawn_prompt and _equal(*sides):
        raise BadRow("chosen equals rejected")
    return PictureRow(prompt, sides, row.where, ids_of(row, "prompt_token_ids"))


def _side(row: FolderRow, role: Role, column: str, prompt: str) -> Side:
    drawn = row.values.get(f"{column}_prompt")
    if drawn is not None and not isinstance(drawn, str):
        raise BadRow("no prompt", f"its {column}_prompt is a {type(drawn).__name__}")
    trajectory = trajectory_of(row, f"{column}_trajectory")
    ids = ids_of(row, f"{column}_token_ids")
    return Side(role, picture_of(row, column), prompt if drawn is None else drawn, trajectory, ids)


def _equal(one: Side, other: Side) -> bool:
    return one.picture.tobytes() == other.picture.tobytes() and (
        one.trajectory is None
        or other.trajectory is None
        or np.array_equal(one.trajectory.latents, other.trajectory.latents)
    )


def _how(way: Trajectory | None) -> tuple[Any, ...] | None:
    """Return what must be the same in trajectories that are compared."""
    return None if way is None else (*map(int, way.levels), way.eta, way.guidance, way.sampler, way.latents.shape)


def _told_way(way: Trajectory | None) -> str:
    if way is None:
        return "no trajectory"
    how = f"sampler {way.sampler}, eta {way.eta:g}, guidance {way.guidance:g}"
    return f"{len(way.logps)} steps from level {int(way.levels[0])}, {how}"


def common_steps(rows: Sequence[PictureRow], asked: str) -> Steps | None:
    """Return how all pictures were drawn where the trajectory term is to be learnt from, None for the error term.

    Args:
        rows: of the data, held-out ones too.
        asked: "auto" (trajectories where every picture has one), "error" or "trajectory".

    Raises:
        UserError: a picture has no trajectory, or one that was drawn otherwise than the others.
    """
    ways = [(row, side.trajectory) for row in rows for side in row.sides]
    lacking = next((row for row, way in ways if way is None), None)
    if asked == "error" or (asked == "auto" and lacking is not None):
        return None
    if lacking is not None:
        raise UserError(
            f"{lacking.where}: there is no trajectory of its pictures, and --image-term trajectory learns from them.",
            "Draw with tokenq draw, which keeps them, or leave --image-term out.",
        )
    first, way = ways[0]
    odd = next(((row, other) for row, other in ways if _how(other) != _how(way)), None)
    if odd is not None:
        raise UserError(
            f"{odd[0].where}: its pictures were drawn with {_told_way(odd[1])}; those of {first.where} with "
            f"{_told_way(way)}. The guided network at these steps is the policy: it cannot be two.",
            "Train on pictures that were drawn alike, or with --image-term error.",
        )
    assert way is not None
    try:
        return Steps(tuple(map(int, way.levels)), way.eta, way.guidance, way.sampler)
    except UserError as problem:
        raise UserError(f"{first.where}: its trajectory: {problem.message}", problem.hint) from None


_AT_ONCE = 16


def picture_groups(
    rows: Sequence[PictureRow], model: ImageModel, n_steps: int, *, trajectories: bool
) -> Iterator[PictureGroup]:
    """Yield the rows with what the image model computes with: latents of the pictures, or of their trajectories.

    Args:
        rows: what was read.
        model: encodes pictures.
        n_steps: actions of a picture.
        trajectories: whether the trajectories are learnt from.

    Raises:
        UserError: the model draws other sizes, or gives latents that are not finite; names the row.
    """
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        sides = [(row, side) for row in some for side in row.sides]
        held = iter([_way(row, side, model) for row, side in sides] if trajectories else _latents(sides, model))
        for row in some:
            responses = tuple(PictureResponse(next(held), one.drawn_prompt, n_steps, one.role) for one in row.sides)
            is_pair = [one.role for one in row.sides] == ["chosen", "rejected"]
            yield PictureGroup(row.prompt, responses, is_pair, row.where)


def _way(row: PictureRow, side: Side, model: ImageModel) -> Any:
    assert side.trajectory is not None
    latents = side.trajectory.latents
    if latents.shape[1:] != model.shape:
        raise UserError(
            f"{row.where}: a trajectory has latents of {latents.shape[1:]}, and {model.name} of {model.shape}.",
            "Train the model that drew it.",
        )
    first, noisiest = int(side.trajectory.levels[0]), model.schedule.levels
    if first != noisiest:
        raise UserError(
            f"{row.where}: a trajectory begins at noise level {first}; the noise of {model.name} is level {noisiest}.",
            "Train the model that drew it.",
        )
    return np.ascontiguousarray(latents, np.float32)


def _latents(sides: Sequence[tuple[PictureRow, Side]], model: ImageModel) -> Sequence[Any]:
    """Return [1, *shape] of each picture; one by one where they do not go through the model together."""
    try:
        found = model.latents_of([side.picture for _, side in sides])
    except UserError as problem:
        if len(sides) == 1:
            raise UserError(f"{sides[0][0].where}: {problem.message}", problem.hint) from None
        return [_latents([one], model)[0] for one in sides]
    latents = found.detach().float().cpu().numpy()
    for (row, side), one in zip(sides, latents, strict=True):
        if not np.isfinite(one).all():
            raise UserError(
                f"{row.where}: the latents of its {side.role} picture are not finite.",
                "Encode in --dtype float32: some image encoders overflow in half precision.",
            )
    return [one[None] for one in latents]
