"""The data of a training of images: read, parted from what is held out, as groups of pictures with their words."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokenq.core.losses import LossSum
from tokenq.data.files.source_language import is_standard_input, parse_source
from tokenq.data.sources import hold_out, pieces_of, read_rows, weighted_places
from tokenq.data.summary import account
from tokenq.diffusion.batch import Term, error_term, trajectory_term
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.rows import PictureGroup
from tokenq.diffusion.sampling import Steps
from tokenq.errors import UserError
from tokenq.jobs.training.images.cells import FolderPiece
from tokenq.jobs.training.images.rows import Found, PictureRow, common_steps, picture_groups, read_pictures
from tokenq.jobs.training.images.words import with_words
from tokenq.listener import Listener
from tokenq.training.config import TrainConfig


@dataclass(frozen=True)
class PictureData:
    """The data of a run.

    Attributes:
        groups: what is trained on.
        held_out: what it is evaluated on.
        steps: how the pictures were drawn, where their trajectories are learnt from.
        term: what is computed of a picture.
        rows: how many were read.
        dropped: what was left out of them, by reason.
    """

    groups: Sequence[PictureGroup]
    held_out: Sequence[PictureGroup]
    steps: Steps | None
    term: Term
    rows: int
    dropped: Counter[str]


def load_pictures(
    config: TrainConfig, loss: LossSum, model: ImageModel, tokenizer: Any, listener: Listener
) -> PictureData:
    """Return the data of a run.

    Args:
        config: names them.
        loss: says what is asked of a row.
        model: encodes pictures.
        tokenizer: of the refiner, None without one.
        listener: told what was found.

    Raises:
        UserError: a row cannot be used and is not to be left out, or nothing is left.
    """
    found = _load(config.data, config, loss)
    kept, held_out = found.rows, found.rows[:0]
    if config.eval_size:
        kept, held_out = hold_out(kept, config.eval_size, seed=config.seed)
    elif config.eval_data:
        held_out = _load(config.eval_data, config, loss).rows
    steps = common_steps([*kept, *held_out], config.image_term)
    if steps is not None:
        _refuse_other_guidance(model, steps)
    term = error_term(config.noise_draws, config.image_weights) if steps is None else trajectory_term(steps)
    actions = config.noise_draws if steps is None else steps.count
    groups, evaluated = (_groups(part, config, loss, model, tokenizer, actions, steps) for part in (kept, held_out))
    dropped = found.dropped + Counter({"words over --max-length": len(kept) - len(groups)} if tokenizer else {})
    pictures = sum(len(group.responses) for group in groups)
    how = "denoising errors" if steps is None else f"trajectories of {steps.count} steps"
    lost = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common() if count) or "none"
    listener.say(f"data: {found.read:,} rows: {pictures:,} pictures, by their {how}; dropped: {lost}")
    if evaluated:
        listener.say(f"held out: {len(evaluated):,} rows")
        trained = set(map(_key, groups))
        if shared := sum(_key(group) in trained for group in evaluated):
            listener.say(f"warning: {shared} of {len(evaluated)} held-out rows are trained on as well")
    return PictureData(groups, evaluated, steps, term, found.read, dropped)


def _key(group: PictureGroup) -> bytes:
    """Return what tells a row from others."""
    return group.prompt_bytes() + b"".join(one.content_bytes() for one in group.responses)


def _load(sources: Sequence[str], config: TrainConfig, loss: LossSum) -> Found:
    """Return the rows of a mixture of sources, each as often as its weight says."""
    if any(map(is_standard_input, sources)):
        raise UserError("Rows of pictures do not come on standard input.", "Name a file: pictures lie beside it.")
    rows: list[PictureRow] = []
    read, dropped = 0, Counter[str]()
    for text in sources:
        source = parse_source(text)
        pieces = {split: [FolderPiece(*one) for one in some] for split, some in pieces_of(source).items()}
        found = read_pictures(read_rows(source, pieces), loss.selection, config.columns, config.bad_rows)
        rows += [found.rows[place] for place in weighted_places(len(found.rows), source, config.seed)]
        read, dropped = read + found.read, dropped + found.dropped
    return Found(rows, read, dropped)


def _refuse_other_guidance(model: ImageModel, steps: Steps) -> None:
    """Refuse trajectories of another guided network than the one that is trained."""
    if model.guidance is not None and model.guidance != steps.guidance:
        raise UserError(
            f"{model.name} was trained with guidance {model.guidance:g}, and these trajectories were drawn with "
            f"{steps.guidance:g}: the guided network is the policy, so this is another one.",
            f"Draw with --guidance {model.guidance:g}.",
        )


def _groups(
    rows: Sequence[PictureRow],
    config: TrainConfig,
    loss: LossSum,
    model: ImageModel,
    tokenizer: Any,
    actions: int,
    steps: Steps | None,
) -> list[PictureGroup]:
    groups = list(picture_groups(rows, model, actions, trajectories=steps is not None))
    if loss.selection != "pairs":
        groups = [replace(group, is_pair=False) for group in groups]
    if tokenizer is not None and groups:
        groups = with_words(groups, rows, config, tokenizer)
    if loss.inputs.get("mismatched") == "data" and groups:
        groups = _with_mismatched(groups)
    return groups


def _with_mismatched(groups: Sequence[PictureGroup]) -> list[PictureGroup]:
    """Return every group with the first picture of the next group of another prompt, mismatched, at its end.

    KTO takes its reference point from such responses (arXiv 2402.01306). An image model alone is asked about them under
    the prompt of the group; behind a refiner the whole response, words and picture, answers it.
    """
    found = []
    for place, group in enumerate(groups):
        order = (groups[(place + step) % len(groups)] for step in range(1, len(groups)))
        other = next((one for one in order if one.prompt != group.prompt), None)
        if other is None:
            hint = "Give more prompts, or choose --loss-options mismatched=none."
            raise UserError("All rows have one prompt, and KTO compares with responses to others.", hint)
        first = other.responses[0]
        drawn = group.responses[0].drawn_prompt if first.words is None else first.drawn_prompt
        mismatched = replace(first, role="mismatched", drawn_prompt=drawn)
        found.append(replace(group, responses=(*group.responses, mismatched)))
    return found


def identity_of(sources: Sequence[str], groups: Sequence[PictureGroup], data: PictureData) -> dict[str, Any]:
    """Return the identity of data for provenance: sources, a digest of all that is learnt from, and their account."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(group.prompt_bytes() + b"\0")
        for one in group.responses:
            digest.update(f"{one.role} {one.n_steps} ".encode() + one.content_bytes())
    pairs, pictures = sum(group.is_pair for group in groups), sum(len(group.responses) for group in groups)
    lengths = {"steps": np.array([one.n_steps for group in groups for one in group.responses], np.int32)}
    if groups and groups[0].responses[0].words is not None:
        lengths["response"] = np.array([one.n_words for group in groups for one in group.responses], np.int32)
    summary = account(data.rows, (len(groups), pairs, pictures), data.dropped, {}, lengths)
    return {"sources": list(sources), "sha256": digest.hexdigest(), "summary": summary.to_dict()}
