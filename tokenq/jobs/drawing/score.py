"""Pictures read by an image model against its reference: in memory, or into a file that a kill does not lose."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

import tokenq
from tokenq.data.sources import Data
from tokenq.diffusion.open import is_image_model, open_image_model
from tokenq.errors import UserError
from tokenq.files import json_line, write_lines, written_aside
from tokenq.jobs.drawing.identity import image_identity
from tokenq.jobs.drawing.painter import folder_of, png_of, refuse_foreign_folder, warning_once
from tokenq.jobs.drawing.reading import PictureReader
from tokenq.jobs.drawing.run import image_model_in, picture_run
from tokenq.jobs.drawing.seen import SeenPicture, seen_pictures
from tokenq.jobs.inputs import Options
from tokenq.jobs.load import open_reader
from tokenq.jobs.outputs import Parts, claimed, is_made, recorder
from tokenq.jobs.reader import Reader
from tokenq.listener import SILENCE, Event, Listener
from tokenq.models.load import device_of
from tokenq.records.picture_traces import PictureTrace, ReadPicture, packed_maps
from tokenq.records.schema import SCHEMA
from tokenq.report.pictures.read import PictureTraces
from tokenq.rundir import provenance
from tokenq.score.config import ScoreConfig


def reads_pictures(config: ScoreConfig) -> bool:
    """Return whether what a configuration names is an image model, or a run that trained one."""
    named = config.policy if config.run is None else config.run
    return named is not None and is_image_model(image_model_in(named) or named)


def scored_pictures(config: ScoreConfig, listener: Listener, data: Data | None = None) -> PictureTraces:
    """Read the pictures of `config`, write what it asks for, and return their traces.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        data: rows, instead of the files that the configuration names.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check_pictures()
    files = [Path(name) for name in (config.output, config.html) if name is not None]
    with claimed("tokenq score", files, overwrite=config.overwrite):
        state = PartialState(cpu=config.device == "cpu")
        listener = listener if state.is_main_process else SILENCE
        if config.output is not None:
            refuse_foreign_folder(Path(config.output), overwrite=config.overwrite)
        gallery = gallery_of(config, listener)
        seen, lost = seen_pictures(config.data if data is None else data, config.columns, config.bad_rows)
        dropped = f", {lost} rows left out" if lost else ""
        with_way = sum(one.trajectory is not None for one in seen)
        listener.say(f"data: {len(seen)} pictures, {with_way} of them with their trajectories{dropped}")
        source: Path | list[ReadPicture]
        if config.output is None:
            source = list(gallery.read(seen))
        else:
            source = Path(config.output)
            _score_to_file(source, gallery, seen, listener)
        traces = PictureTraces(source, gallery.title, gallery.record())
        if state.is_main_process:
            if config.html is not None:
                listener.say(f"page: {traces.html(config.html)}")
            if config.png is not None:
                listener.say(f"pictures of the credit maps: {traces.png(config.png)}")
        return traces


@dataclass(frozen=True)
class Gallery:
    """An image model with its reference, ready to read.

    Attributes:
        config: what is asked for.
        reader: the models.
        beta: KL temperature of words.
        image_beta: KL temperature of steps.
        identities: of image model, its reference, the refiner and its reference, by role.
    """

    config: ScoreConfig
    reader: PictureReader
    beta: float
    image_beta: float
    identities: dict[str, dict[str, Any]]

    @property
    def title(self) -> str:
        """What a page is called: after the models that have read."""
        return f"{self.reader.policy.name} against {self.reader.reference.name}"

    def record(self) -> dict[str, Any]:
        """Return where the traces come from."""
        return provenance(asdict(self.config), self.config.seed, self.identities) | {
            "made_by": "tokenq score",
            "beta": self.beta,
            "image_beta": self.image_beta,
        }

    def key(self, seen: Sequence[SeenPicture]) -> str:
        """Return a key of all that the traces depend on."""
        found = hashlib.sha256(repr((tokenq.__version__, SCHEMA, self.beta, self.image_beta)).encode())
        found.update(repr((self.config.noise_draws, self.config.seed)).encode())
        found.update(repr([one["weights"] for one in self.identities.values()]).encode())
        for one in seen:
            way = b"" if one.trajectory is None else one.trajectory.latents.tobytes()
            found.update(repr((one.id, one.prompt, one.drawn_prompt, one.refinement)).encode())
            found.update(one.picture.tobytes() + way)
        return found.hexdigest()

    def read(self, seen: Sequence[SeenPicture], done: int = 0) -> Iterator[ReadPicture]:
        """Yield the pictures that are not done, read; files are named after their places."""
        stem = "" if self.config.output is None else f"{folder_of(Path(self.config.output)).name}/"
        for place, one in list(enumerate(seen))[done:]:
            words, steps = self.reader.read_words(one), self.reader.steps(one, place)
            trace = PictureTrace(
                id=one.id,
                prompt=one.prompt,
                drawn_prompt=one.drawn_prompt,
                picture=f"{stem}{place:06d}.png",
                maps=f"{stem}{place:06d}.safetensors",
                form=steps.form,
                beta=self.beta,
                image_beta=self.image_beta,
                guidance=steps.guidance,
                words=words.pieces,
                word_ids=words.ids,
                word_logps=words.logps,
                word_ref_logps=words.ref_logps,
                levels=steps.levels,
                logps=tuple(steps.logps.tolist()),
                ref_logps=tuple(steps.ref_logps.tolist()),
                policy=self.identities["policy"]["weights"],
                reference=self.identities["reference"]["weights"],
            )
            yield ReadPicture(trace, (self.image_beta * steps.maps).astype("float32"), png_of(one.picture))


def gallery_of(config: ScoreConfig, listener: Listener) -> Gallery:
    """Return the models that a configuration names.

    Raises:
        UserError: a model is missing, or two of them do not belong together.
    """
    run = config.policy if config.run is None else config.run
    device = str(device_of(config.device))
    options = Options(beta=config.beta or 0.1, dtype=config.dtype, device=device)
    made = picture_run(run, options.spec(str(run)))
    policy = str(config.policy if made is None else made.image)
    reference = config.reference or (None if made is None else made.reference)
    if reference is None:
        raise UserError("An image model is read against a reference.", "Name what it was trained from: --reference.")
    of_run = (None, None) if made is None else (made.beta, made.image_beta)
    beta = _first(config.beta, of_run[0], 0.1)
    image_beta = _first(config.image_beta, of_run[1], beta)
    dtype = torch.float32 if config.dtype == "auto" else getattr(torch, config.dtype)
    models = [open_image_model(path, reference=True, device=device, dtype=dtype) for path in (policy, reference)]
    _refuse_strangers(*models)

    warn = warning_once(listener)
    pair = [None if path is None else options.spec(path) for path in (config.refiner, config.refiner_reference)]
    if made is not None and config.refiner is None:
        pair = [made.refiner, made.refiner_reference]
    words = None if pair[0] is None else open_reader(pair[0], pair[1], options, warn)
    identities = {
        role: image_identity(model, path).to_dict()
        for role, model, path in zip(("policy", "reference"), models, (policy, reference), strict=True)
    }
    identities |= {} if words is None else _of_words(words)
    reader = PictureReader(models[0], models[1], words, config.noise_draws, config.seed, warn)
    return Gallery(config, reader, beta, image_beta, identities)


def _first(*strengths: float | None) -> float:
    """Return the first that is known; a part that a run left as it was has 0."""
    return next(one for one in strengths if one is not None)


def _of_words(words: Reader) -> dict[str, dict[str, Any]]:
    return dict(zip(("refiner", "refiner_reference"), words.identities, strict=True))


def _refuse_strangers(policy: Any, reference: Any) -> None:
    """Refuse two models that do not draw alike: their steps have no common density."""
    alike = policy.shape == reference.shape and policy.schedule.levels == reference.schedule.levels
    if not alike or not torch.equal(policy.schedule.alphas, reference.schedule.alphas):
        raise UserError(
            f"{policy.name} and {reference.name} draw other sizes, or by other noise schedules.",
            "Name the model that the policy was trained from.",
        )


def _score_to_file(path: Path, gallery: Gallery, seen: Sequence[SeenPicture], listener: Listener) -> None:
    """Read the pictures and write their traces to `path`, their files beside it.

    A picture is kept when its files lie on the disk; a file that holds the whole of the same job is left as it is. What
    was killed goes on with the next picture, to the same bytes.
    """
    key, state = gallery.key(seen), PartialState()
    parts = Parts(path, key)
    if is_made(path, key):
        listener.say(f"the traces of {len(seen)} pictures are in {path} already")
        state.wait_for_everyone()
        if state.is_main_process:
            parts.remove()
        return
    if state.is_main_process:
        done = parts.begin()
        if done:
            listener.say(f"going on after {done} of {len(seen)} pictures that were read before")
        for place, one in enumerate(gallery.read(seen, done), done + 1):
            for name, content in ((one.trace.picture, one.png), (one.trace.maps, packed_maps(one.maps))):
                with written_aside(path.parent / name) as aside:
                    aside.write_bytes(content)
            parts.append(json_line(one.trace.to_dict()))
            listener(Event("scoring", place, len(seen)))
        record = {**gallery.record(), "records": len(seen), "key": key}
        write_lines(path, parts.own(), recorder(path, lambda: record))
        parts.remove()
        listener.say(f"done: the traces of {len(seen)} pictures are in {path}, with their files in {folder_of(path)}")
    state.wait_for_everyone()
