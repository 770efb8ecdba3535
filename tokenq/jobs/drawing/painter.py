"""An image model, ready to draw: prompts and seeds in, pictures with their trajectories out, on the disk."""

import glob
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from tokenq.data.prompts import Prompt
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.open import open_image_model
from tokenq.diffusion.sampling import Steps, check_sampler, draw, spaced_steps
from tokenq.errors import UserError
from tokenq.files import disk_errors, written_aside
from tokenq.jobs.drawing.config import DrawConfig
from tokenq.jobs.drawing.identity import image_identity
from tokenq.jobs.drawing.run import image_model_in
from tokenq.listener import Listener
from tokenq.models.identity import ModelIdentity
from tokenq.models.load import device_of
from tokenq.records.drawings import Drawing, Refinement, Trajectory, packed_trajectory

if TYPE_CHECKING:
    from PIL.Image import Image

_NOISE, _STEPS = 0x9015E, 0x57E95
"""Set the seeds of the initial noise and of the steps apart."""


class Seeds(NamedTuple):
    """What decides a picture, beside the models.

    Attributes:
        noise: seed of the initial noise.
        steps: seed of the noise of the steps.
    """

    noise: int
    steps: int


def seeds_of(seed: int, place: int, samples: int, *, same_noise: bool) -> list[Seeds]:
    """Return the seeds of the pictures of a prompt.

    Args:
        seed: of everything.
        place: of the prompt among all.
        samples: how many pictures.
        same_noise: whether all begin in the noise of the first.
    """

    def mixed(*parts: int) -> int:
        high, low = np.random.SeedSequence([seed, place, *parts]).generate_state(2)
        return (int(high) << 32 | int(low)) >> 1  # torch and JSON readers take 63 bits

    return [Seeds(mixed(_NOISE, 0 if same_noise else n), mixed(_STEPS, n)) for n in range(samples)]


class Asked(NamedTuple):
    """A picture that is to be drawn.

    Attributes:
        prompt: what was asked.
        place: of the prompt among all.
        number: which of its pictures.
        text: what the image model is given.
        refinement: how the refiner came to it; None where there is none.
        seeds: what decides the rest.
    """

    prompt: Prompt
    place: int
    number: int
    text: str
    refinement: Refinement | None
    seeds: Seeds


@dataclass(frozen=True)
class Painter:
    """An image model with the way in which it draws.

    Attributes:
        model: the policy.
        steps: levels, sampler, eta and guidance.
        identity: of its weights.
        say: told what is cut, or drawn with another guidance than was trained.
    """

    model: ImageModel
    steps: Steps
    identity: ModelIdentity
    say: Callable[[str], None]

    def painted(self, texts: Sequence[str], seeds: Sequence[Seeds]) -> "list[tuple[Image, Trajectory]]":
        """Return the pictures of so many prompts, drawn side by side, each with its trajectory.

        A picture depends on its prompt and its seeds; what is drawn beside it moves it by rounding alone.

        Raises:
            UserError: a latent is not finite.
        """
        with torch.no_grad():
            told = self.model.encode(texts, self.say)
            dice = [torch.Generator().manual_seed(one.steps) for one in seeds]
            found = draw(self.model, told, [one.noise for one in seeds], self.steps, dice, say=self.say)
            pictures = self.model.pictures_of(found.latents[:, -1])
        latents, logps = found.latents.float().cpu().numpy(), found.logps.double().cpu().numpy()
        levels = np.array(self.steps.levels, np.int64)
        ways = [
            Trajectory(way, own, levels, self.steps.eta, self.steps.guidance, self.steps.sampler)
            for way, own in zip(latents, logps, strict=True)
        ]
        return list(zip(pictures, ways, strict=True))

    def drawings(self, path: Path, asked: Sequence[Asked], side_by_side: int) -> Iterator[Drawing]:
        """Draw, write the files of every picture, and yield the lines of the file of drawings.

        Args:
            path: the file of drawings that will be.
            asked: what is to be drawn.
            side_by_side: pictures at a time.
        """
        for start in range(0, len(asked), side_by_side):
            some = asked[start : start + side_by_side]
            found = self.painted([one.text for one in some], [one.seeds for one in some])
            for one, (picture, way) in zip(some, found, strict=True):
                yield self._kept(path, one, picture, way)

    def _kept(self, path: Path, one: Asked, picture: "Image", way: Trajectory) -> Drawing:
        stem = folder_of(path) / f"{one.place:06d}-{one.number}"
        names = stem.with_suffix(".png"), stem.with_suffix(".safetensors")
        for place, content in zip(names, (png_of(picture), packed_trajectory(way)), strict=True):
            with written_aside(place) as aside:
                aside.write_bytes(content)
        return Drawing(
            id=one.prompt.id,
            number=one.number,
            prompt=asked_text(one.prompt),
            drawn_prompt=one.text,
            picture=names[0].relative_to(path.parent).as_posix(),
            trajectory=names[1].relative_to(path.parent).as_posix(),
            noise_seed=one.seeds.noise,
            seed=one.seeds.steps,
            levels=self.steps.levels,
            eta=self.steps.eta,
            guidance=self.steps.guidance,
            sampler=self.steps.sampler,
            logps=tuple(way.logps.tolist()),
            image_model=self.identity.weights,
            refinement=one.refinement,
        )


def folder_of(path: Path) -> Path:
    """Return the folder in which the files of a file of drawings lie."""
    return path.with_suffix("")


def refuse_foreign_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse to write among files that belong to no file of pictures of this name.

    Args:
        path: the file of drawings, or of traces, that will be.
        overwrite: whether what others made may be replaced.

    Raises:
        UserError: the folder holds files, and the file of lines is neither there nor half-made.
    """
    folder = folder_of(path)
    known = path.exists() or any(path.parent.glob(f".{glob.escape(path.name)}.partial-*"))
    if not known and not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"The folder {folder} holds files already, and {path} would put its pictures there.",
            "Name another --output, or add --overwrite.",
        )


def clear_unnamed(path: Path, kept: int, samples: int) -> None:
    """Delete the files of an earlier job of the same name that this one does not have.

    Args:
        path: the file of drawings.
        kept: prompts that were drawn.
        samples: pictures of each.
    """
    with disk_errors(path):
        for place in folder_of(path).glob("*-*.*"):
            prompt, _, number = place.stem.partition("-")
            if prompt.isdecimal() and number.isdecimal() and (int(prompt) >= kept or int(number) >= samples):
                place.unlink()


def png_of(picture: "Image") -> bytes:
    """Return a picture as a PNG; equal pictures are equal bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def asked_text(prompt: Prompt) -> str:
    """Return what is to be drawn: a text, or what the user said last."""
    return prompt.text if isinstance(prompt.text, str) else str(prompt.text[-1].content)


def warning_once(listener: Listener) -> Callable[[str], None]:
    """Return what tells a listener each warning once, however many batches give it."""
    said = set[str]()

    def warn(text: str) -> None:
        if text not in said:
            said.add(text)
            listener.say(f"warning: {text}")

    return warn


def load_painter(config: DrawConfig, listener: Listener) -> Painter:
    """Return the image model of a configuration, ready to draw.

    Raises:
        UserError: there is none, or it cannot draw so.
    """
    path = image_model_in(config.model) or config.model
    dtype = torch.float32 if config.dtype == "auto" else getattr(torch, config.dtype)
    model = open_image_model(path, reference=True, device=str(device_of(config.device)), dtype=dtype)
    trained = 1.0 if model.guidance is None else model.guidance
    scale = trained if config.guidance is None else config.guidance
    check_sampler(model, config.sampler)
    steps = spaced_steps(model.schedule, config.steps, eta=config.eta, guidance=scale, sampler=config.sampler)
    return Painter(model, steps, image_identity(model, str(path)), warning_once(listener))
