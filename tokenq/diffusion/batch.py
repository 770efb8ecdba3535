"""Groups of pictures to batches: what is computed of a picture, with noise that depends on the row and on nothing else.

Both pictures of a pair, and policy and reference, see the same levels and the same noise: their difference is then of
what they say, and not of what they were asked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenq.core.packing import of_all, pack
from tokenq.core.tensors import Actions, PackedBatch
from tokenq.diffusion.errors import draw_levels, error_logps
from tokenq.diffusion.model import Conditioning, ImageModel
from tokenq.diffusion.rows import PictureGroup, PictureResponse
from tokenq.diffusion.sampling import Steps, Trajectories, step_logps
from tokenq.diffusion.schedule import Schedule


@dataclass(frozen=True)
class PictureBatch:
    """Pictures as an image model is asked about them.

    Attributes:
        prompts: [S] what each was drawn from.
        latents: [S, 1, *shape] of the pictures, or [S, T+1, *shape] of their trajectories.
        levels: [S, K] noise levels; K = 0 where the trajectory has them.
        noise: [S, K, *shape].
        actions: a step, or a level, each.
    """

    prompts: tuple[str, ...]
    latents: Tensor
    levels: Tensor
    noise: Tensor
    actions: Actions

    def to(self, device: torch.device | str) -> "PictureBatch":
        """Return the batch with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("latents", "levels", "noise", "actions")}
        return replace(self, **moved)


@dataclass(frozen=True)
class HybridBatch:
    """Words of a refiner with the pictures that were drawn from them, as one sequence of actions a response.

    Attributes:
        words: of the refiner.
        pictures: of the image model.
        order: [N] the place of action n in words and pictures one after the other.
        actions: words, then steps, of each response.
    """

    words: PackedBatch
    pictures: PictureBatch
    order: Tensor
    actions: Actions

    def to(self, device: torch.device | str) -> "HybridBatch":
        """Return the batch with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("words", "pictures", "order", "actions")}
        return replace(self, **moved)


@dataclass(frozen=True)
class Term:
    """What is computed of a picture: one number an action.

    Attributes:
        draws: noise levels that are drawn for a picture; 0 where its trajectory has them.
        logps: (model, batch, conditioning) → [S, actions] in nats.
    """

    draws: int
    logps: Callable[[ImageModel, PictureBatch, Conditioning], Tensor]


def error_term(draws: int, weights: str) -> Term:
    """Return the denoising errors of pictures at drawn noise levels; see `error_logps`.

    Args:
        draws: levels a picture.
        weights: a key of `errors.WEIGHTS`.
    """

    def logps(model: ImageModel, batch: PictureBatch, conditioning: Conditioning) -> Tensor:
        return error_logps(model, batch.latents[:, 0], batch.levels, batch.noise, conditioning, weights)

    return Term(draws, logps)


def trajectory_term(steps: Steps) -> Term:
    """Return the log-densities of the steps in which pictures were drawn; see `step_logps`."""

    def logps(model: ImageModel, batch: PictureBatch, conditioning: Conditioning) -> Tensor:
        nothing = batch.latents.new_zeros(len(batch.latents), steps.count)
        return step_logps(model, Trajectories(batch.latents, nothing, steps), conditioning)

    return Term(0, logps)


@dataclass(frozen=True)
class Packer:
    """Makes batches of groups of pictures.

    Attributes:
        schedule: of the image model.
        term: what is computed of a picture.
        seed: of levels and noise.
    """

    schedule: Schedule
    term: Term
    seed: int

    def pictures(self, parts: Sequence[Any], step: int | None) -> PictureBatch:
        """Return parts of the data as a batch of pictures.

        Args:
            parts: group, place and responses of each.
            step: updates done; None for an evaluation, whose noise is the same each time.
        """
        groups: list[PictureGroup] = [part.group for part in parts]
        every = [response for group in groups for response in group.responses]
        drawn = [self._noise(part.group, part.place, step) for part in parts]
        index = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(group.responses) for group in groups]))
        levels, noise = (torch.stack([one[i] for one in drawn])[index] for i in (0, 1))
        latents = torch.from_numpy(np.stack([one.latents for one in every]))
        prompts = tuple(one.drawn_prompt for one in every)
        return PictureBatch(prompts, latents, levels, noise, _actions(parts, [one.n_steps for one in every]))

    def hybrid(self, parts: Sequence[Any], step: int | None) -> HybridBatch:
        """Return the same with the words of a refiner; a column `segments` is 0 at words and 1 at steps."""
        places, responses = [part.place for part in parts], [part.responses for part in parts]
        words = pack([part.group.words() for part in parts], places, responses)
        pictures = self.pictures(parts, step)
        every = [response for part in parts for response in part.group.responses]
        written = torch.tensor([0 if one.words is None else len(one.words.ids) for one in every])
        owners = torch.cat([words.actions.responses, pictures.actions.responses])
        order = torch.argsort(owners, stable=True)
        later = pictures.actions.places + written[pictures.actions.responses]
        longest = max(int(size) + one.n_steps for size, one in zip(written, every, strict=True))
        actions = replace(
            pictures.actions,
            responses=owners[order],
            places=torch.cat([words.actions.places, later])[order],
            shape=(len(every), longest),
            token_columns={**_columns(every), "segments": (order >= len(words.actions.responses)).long()},
        )
        return HybridBatch(
            words, replace(pictures, actions=replace(pictures.actions, token_columns={})), order, actions
        )

    def _noise(self, group: PictureGroup, place: int, step: int | None) -> tuple[Tensor, Tensor]:
        """Return levels [K] and noise [K, *shape] of a row: a function of the seed, the step and the row."""
        shape = group.responses[0].latents.shape[1:]
        if not self.term.draws:
            return torch.zeros(0, dtype=torch.long), torch.zeros(0, *shape)
        entropy = np.random.SeedSequence([self.seed, 0 if step is None else step + 1, place])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        levels = draw_levels(self.schedule, 1, self.term.draws, generator)[0]
        return levels, torch.randn(self.term.draws, *shape, generator=generator)


def _actions(parts: Sequence[Any], counts: Sequence[int]) -> Actions:
    """Return the steps of all pictures as actions."""
    sizes = torch.tensor(counts)
    members = [(part.place, number) for part in parts for number in part.responses]
    every = [response for part in parts for response in part.group.responses]
    pairs, first = [], 0
    for part in parts:
        if part.group.is_pair:
            roles = [response.role for response in part.group.responses]
            pairs.append((first + roles.index("chosen"), first + roles.index("rejected")))
        first += len(part.group.responses)
    return Actions(
        responses=torch.arange(len(every)).repeat_interleave(sizes),
        places=torch.cat([torch.arange(count) for count in counts]),
        shape=(len(every), max(counts)),
        roles=tuple(one.role for one in every),
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        members=tuple(members),
        origins=tuple(part.group.where for part in parts for _ in part.group.responses),
        token_columns=_columns(every),
        response_columns=of_all([one.response_columns for one in every], partial(np.asarray, dtype=np.float32)),
    )


def _columns(every: Sequence[PictureResponse]) -> Mapping[str, Tensor]:
    return of_all([one.token_columns for one in every], np.concatenate)
