"""Two image models over one picture: log-ratios of its steps, and of every pixel in each of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenq.core.packing import pack
from tokenq.diffusion.errors import draw_levels, level_weights
from tokenq.diffusion.model import Conditioning, ImageModel
from tokenq.diffusion.sampling import Steps, gaussian_logps, step_distribution
from tokenq.errors import UserError
from tokenq.jobs.drawing.seen import SeenPicture
from tokenq.jobs.reader import Reader
from tokenq.records.drawings import Trajectory
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.picture_traces import Form

_AT_ONCE = 16
"""Noisy pictures in one forward."""


class ReadSteps(NamedTuple):
    """What both models say of a picture.

    Attributes:
        form: what the numbers are.
        levels: [T] noise level at which each step begins.
        guidance: scale under which both were read.
        logps: [T] of the policy.
        ref_logps: [T] of the reference.
        maps: [T, height, width] log-ratio of every pixel in nats; step t sums to logps[t] − ref_logps[t].
    """

    form: Form
    levels: tuple[int, ...]
    guidance: float
    logps: NDArray[np.float64]
    ref_logps: NDArray[np.float64]
    maps: NDArray[np.float64]


class ReadWords(NamedTuple):
    """What both refiners say of the words of a prompt.

    Attributes:
        pieces: what each token adds.
        ids: the tokens.
        logps: log π of each; empty where no refiner reads.
        ref_logps: log π_ref of each.
    """

    pieces: tuple[str, ...]
    ids: tuple[int, ...]
    logps: tuple[float, ...] = ()
    ref_logps: tuple[float, ...] = ()


@dataclass(frozen=True)
class PictureReader:
    """An image model with its reference, and refiners where there are some.

    Attributes:
        policy: the image model.
        reference: what it is compared with.
        words: the refiner with its reference; None where no words are read.
        draws: noise levels at which a picture without a trajectory is read.
        seed: of these levels and their noise.
        say: told of prompts that are cut.
    """

    policy: ImageModel
    reference: ImageModel
    words: Reader | None
    draws: int
    seed: int
    say: Callable[[str], None]

    def steps(self, seen: SeenPicture, place: int) -> ReadSteps:
        """Return what both models say of a picture.

        Args:
            seen: the picture.
            place: of it among all; decides its noise.

        Raises:
            UserError: the picture, or its trajectory, is of another model, or a number is not finite.
        """
        with torch.no_grad():
            told = [model.encode([seen.drawn_prompt], self.say) for model in (self.policy, self.reference)]
            if seen.trajectory is not None:
                found = self._trajectory(seen.trajectory, told, seen.where)
            else:
                found = self._errors(seen, place, told)
        if not all(np.isfinite(part).all() for part in (found.logps, found.ref_logps, found.maps)):
            raise UserError(
                f"{seen.where}: what the models say of this picture is not finite.", "Compute in --dtype float32."
            )
        return found

    def _trajectory(self, way: Trajectory, told: Sequence[Conditioning], where: str) -> ReadSteps:
        """Return log-densities of the steps, and −((x − μ)² − (x − μ_ref)²)/(2 sd²) of each dimension."""
        if way.latents.shape[1:] != self.policy.shape:
            raise UserError(
                f"{where}: its trajectory has latents of {way.latents.shape[1:]}, and {self.policy.name} of "
                f"{self.policy.shape}.",
                "Read it with the model that drew it.",
            )
        steps = Steps(tuple(map(int, way.levels)), way.eta, way.guidance, way.sampler)
        latents, places = torch.from_numpy(way.latents).to(self.policy.device), torch.arange(steps.count)
        read: list[tuple[Tensor, Tensor]] = []
        for model, own in zip((self.policy, self.reference), told, strict=True):
            parts = []
            for some in torch.split(places, _AT_ONCE):
                at = some.to(latents.device)
                spread = own.select(torch.zeros(len(some), dtype=torch.long))
                mean, sd = step_distribution(model, latents[at], some, spread, steps)
                after = latents[at + 1].double()
                errors = -((after - mean.double()) ** 2) / (2 * sd.double() ** 2)
                parts.append((gaussian_logps(after, mean.double(), sd.double()), errors))
            read.append((torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])))
        return _read("trajectory", steps.levels[:-1], steps.guidance, read)

    def _errors(self, seen: SeenPicture, place: int, told: Sequence[Conditioning]) -> ReadSteps:
        """Return −½ w(l) ‖x_0 − x̂_0‖² / draws at drawn levels, from the noisiest on, and of each dimension."""
        schedule, draws = self.policy.schedule, self.draws
        entropy = np.random.SeedSequence([self.seed, place]).generate_state(1, np.uint64)
        dice = torch.Generator().manual_seed(int(entropy[0] >> np.uint64(1)))
        levels = draw_levels(schedule, 1, draws, dice)[0].flip(0)
        noise = torch.randn(draws, *self.policy.shape, generator=dice)
        picture = self.policy.latents_of([seen.picture]).float().to(self.policy.device)
        weights = level_weights(schedule, "log_snr")[levels].double().view(-1, *(1 for _ in self.policy.shape))
        noisy = schedule.noised(picture.expand(draws, *picture.shape[1:]), levels, noise.to(picture))
        read = []
        for model, own in zip((self.policy, self.reference), told, strict=True):
            parts = []
            for some in torch.split(torch.arange(draws), _AT_ONCE):
                spread = own.select(torch.zeros(len(some), dtype=torch.long))
                guess = model.predict(noisy[some.to(noisy.device)], levels[some].to(noisy.device), spread)
                parts.append((guess.double() - picture.double()).cpu() ** 2)
            errors = -0.5 / draws * weights * torch.cat(parts)
            read.append((errors.flatten(1).sum(1), errors))
        return _read("errors", tuple(levels.tolist()), 1.0, read)

    def read_words(self, seen: SeenPicture) -> ReadWords:
        """Return what both refiners say of the words that were drawn: those that were sampled, where they are known."""
        how = seen.refinement
        if self.words is None or self.words.pair is None:
            return ReadWords((), ()) if how is None else ReadWords(how.pieces, how.token_ids)
        if how is None and not seen.drawn_prompt:
            return ReadWords((), ())  # a refiner that ended at once
        if how is None:
            row = self.words.rows([self.words.example(seen.prompt, seen.drawn_prompt)])[0]
            ((trace,),) = self.words.traces(row)
            tokens = [(one.text, one.id, one.logp or 0.0, one.ref_logp or 0.0) for one in trace.tokens]
            return ReadWords(*map(tuple, zip(*tokens, strict=True)))
        ids = np.array(how.token_ids, np.int32)
        response = TokenResponse(ids, np.ones(len(ids), np.bool_), how.terminal)
        group = TokenGroup(np.array(how.prompt_ids, np.int32), (response,), False, seen.where)
        own, ref = self.words.pair.models.read_logps(pack([group], [0]))
        return ReadWords(how.pieces, how.token_ids, tuple(own.double().tolist()), tuple(ref.double().tolist()))


def _read(form: Form, levels: Sequence[int], guidance: float, read: Sequence[tuple[Tensor, Tensor]]) -> ReadSteps:
    (logps, errors), (ref_logps, ref_errors) = read
    numbers = [one.cpu().numpy() for one in (logps, ref_logps, _pixels(errors - ref_errors))]
    return ReadSteps(form, tuple(levels), guidance, *numbers)


def _pixels(values: Tensor) -> Tensor:
    """Return [T, height, width] of [T, channels, height, width], channels summed; a row of pixels for other shapes."""
    return values.sum(1) if values.ndim == 4 else values.flatten(1)[:, None]
