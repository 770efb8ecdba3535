"""Training of an image model, alone or behind a refiner: joins pictures, models and the loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tokenq.core.losses import LossSum, find_sum
from tokenq.diffusion.batch import HybridBatch, Packer, PictureBatch
from tokenq.diffusion.model import ImageModel, reference_of
from tokenq.diffusion.open import open_image_model
from tokenq.diffusion.scorer import (
    HybridScorer,
    PictureScorer,
    encoder_of,
    hybrid_reference,
    picture_reference,
)
from tokenq.errors import UserError
from tokenq.jobs.drawing.identity import image_identity
from tokenq.jobs.training.absolute import with_absolute_paths
from tokenq.jobs.training.images.data import PictureData, identity_of, load_pictures
from tokenq.jobs.training.images.files import ImageWriter
from tokenq.jobs.training.images.settings import check_settings, image_folder, refuse_shards, segments_of
from tokenq.jobs.training.opening import OpenRun, opened
from tokenq.jobs.training.policy_files import finish, policy_writer
from tokenq.jobs.training.prepared import choose_gradients, load_policy, start_of
from tokenq.jobs.training.reference import START_TOLERANCE, autocast, find_reference
from tokenq.listener import Listener
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.identity import ModelIdentity, identify
from tokenq.training.config import TrainConfig
from tokenq.training.defaults import image_rate, loss_parameters, with_defaults
from tokenq.training.job import Job
from tokenq.training.loop import fit
from tokenq.training.objective import Objective
from tokenq.training.precision import precision_of
from tokenq.training.source import Offline, total_steps

_COMPARED = 100
"""Dimensions of a latent up to which two passes of the same weights differ as the log-probs of a text do."""


Pack = Callable[[Sequence[Any], int | None], PictureBatch | HybridBatch]


class Refiner(NamedTuple):
    """The language model before the image model.

    Attributes:
        lm: it, ready to be trained.
        tokenizer: goes with it.
    """

    lm: PackedLM
    tokenizer: Any


@dataclass(frozen=True)
class Painter:
    """What is trained, with what it is compared with.

    Attributes:
        model: the image model.
        policy: it as the loop sees it, alone or behind a refiner.
        reference: log π_ref of a batch; None for losses without a reference.
        tolerance: see `Job.start_tolerance`.
        pack: see `Job.pack`.
        identities: of models, for provenance.
    """

    model: ImageModel
    policy: PictureScorer | HybridScorer
    reference: Callable[[Any], Tensor] | None
    tolerance: float | None
    pack: Pack
    identities: Mapping[str, Any]


def run(config: TrainConfig, listener: Listener, writes: Sequence[Callable[[], None]] = ()) -> None:
    """Train what `config` says, and write the run; the arguments are those of `tokenq.jobs.training.run.run`.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    loss = find_sum(config.loss, loss_parameters(config))
    check_settings(config, loss)
    chosen, config = config, with_absolute_paths(with_rates(config, loss))
    with opened(config, loss, listener, writes, refuse_shards) as opening:
        _train(opening, chosen)


def _train(run: OpenRun[TrainConfig], chosen: TrainConfig) -> None:
    """Train what an open run asks for; `chosen` has what was given before defaults were filled in."""
    config, loss, folder, listener = run.config, run.loss, run.folder, run.listener
    model = image_model_of(run)
    refiner = None if config.image_model is None else _refiner(run)
    data = load_pictures(config, loss, model, refiner and refiner.tokenizer, listener)
    model = model if data.steps is None else replace(model, guidance=data.steps.guidance)
    painter = painter_of(run, model, data, refiner)
    precision = precision_of(painter.policy, config)
    run.record({**painter.identities, **_identities(config, data, loss), "precision": asdict(precision)})
    words = None if refiner is None else policy_writer(run, *refiner)
    writer = ImageWriter(painter.model, config, folder, words)
    job = job_of(run, data, painter, writer)
    _say_rates(chosen, config, listener)
    listener.say(precision.line(config.optimizer))
    steps = total_steps(config, job.source.per_epoch)
    listener.say(f"training: {steps} steps of {config.batch_size} {loss.unit.noun}")
    summary = fit(job, run.accelerator)
    finish(writer, summary, run.accelerator)
    both = "" if words is None else f", its refiner in {folder.policy}"
    listener.say(f"done: the image model is in {writer.place}{both}, every step's numbers in {folder.metrics}")


def _say_rates(chosen: TrainConfig, config: TrainConfig, listener: Listener) -> None:
    """Say which learning rates are defaults."""
    for name in ("learning_rate", "image_learning_rate"):
        rate = getattr(config, name)
        if getattr(chosen, name) is None and rate is not None:
            listener.say(f"{name.replace('_', ' ')}: {rate:g}, the default")


def with_rates(config: TrainConfig, loss: LossSum) -> TrainConfig:
    """Return the settings with the learning rates of what is trained."""
    if config.image_model is None:
        return config if config.learning_rate is not None else replace(config, learning_rate=image_rate(config))
    if config.image_learning_rate is None:
        config = replace(config, image_learning_rate=image_rate(config))
    return with_defaults(config, loss, ("image",))


_DTYPES = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}


def image_model_of(run: OpenRun[TrainConfig]) -> ImageModel:
    """Return the image model that is trained."""
    config = run.config
    device, dtype = str(run.accelerator.device), _DTYPES[config.dtype]
    model = open_image_model(image_folder(config), lora_rank=config.lora_rank, device=device, dtype=dtype)
    if config.gradient_checkpointing:
        _recompute(model)
    return model


def _refiner(run: OpenRun[TrainConfig]) -> Refiner:
    """Return the refiner that is trained."""
    spec, tokenizer = start_of(run)
    refiner = Refiner(load_policy(run, spec, tokenizer), tokenizer)
    choose_gradients(run, refiner.lm)
    return refiner


def _recompute(model: ImageModel) -> None:
    """Have a denoiser of diffusers compute its activations again in the backward pass."""
    denoiser: Any = model.denoiser
    try:
        denoiser.enable_gradient_checkpointing()
    except (AttributeError, ValueError):
        said = f"--gradient-checkpointing: the denoiser of {model.name} does not do it."
        raise UserError(said, "Leave it out.") from None


def painter_of(
    run: OpenRun[TrainConfig], model: ImageModel, data: PictureData, refiner: Refiner | None = None
) -> Painter:
    """Return the policy with its reference."""
    config, accelerator = run.config, run.accelerator
    encode = encoder_of(model, lambda text: run.listener.say(f"warning: {text}"))
    scorer, packer = PictureScorer(model, data.term, encode), Packer(model.schedule, data.term, config.seed)
    identity = image_identity(model, str(image_folder(config)))
    named = config.reference if refiner is None else None
    beside, ref_encode, ref_identity = reference_of(model), encode, identity
    if named is not None:
        beside, ref_identity = _named_reference(named, model, config, accelerator)
        ref_encode = encoder_of(beside)
    reference: Callable[[Any], Tensor] = autocast(picture_reference(beside, data.term, ref_encode), accelerator)
    tolerance: float | None = START_TOLERANCE[_compute_type(config)] * max(1.0, model.dimensions / _COMPARED)
    tolerance = tolerance if ref_identity.weights == identity.weights else None
    told = {"model": identity, "reference": ref_identity}
    policy: PictureScorer | HybridScorer = scorer
    pack: Pack = packer.pictures
    if refiner is not None:
        lm, own = refiner.lm, identify(refiner.lm.model, config.model)
        words = find_reference(run, lm, own, refiner.tokenizer)
        assert words.online is not None
        reference = hybrid_reference(words.online, reference)
        tolerance = None if words.tolerance is None or tolerance is None else max(words.tolerance, tolerance)
        told = {"model": own, "reference": words.identity or own, "image_model": identity}
        policy, pack = HybridScorer(lm, scorer, lm._no_split_modules), packer.hybrid
    identities = {name: one.to_dict() for name, one in told.items()}
    if not run.loss.reference:
        return Painter(model, policy, None, None, pack, identities | {"reference": None})
    return Painter(model, policy, reference, tolerance, pack, identities)


def _named_reference(
    name: str, model: ImageModel, config: TrainConfig, accelerator: Accelerator
) -> tuple[ImageModel, ModelIdentity]:
    """Return the image model of `--reference`."""
    device, dtype = str(accelerator.device), _DTYPES[config.dtype]
    found = open_image_model(name, reference=True, device=device, dtype=dtype)
    if found.shape != model.shape:
        raise UserError(
            f"--reference has latents of {found.shape}, and {model.name} of {model.shape}.",
            "Name the model that this one was trained from.",
        )
    return found, image_identity(found, name)


def _compute_type(config: TrainConfig) -> torch.dtype:
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return mixed.get(config.mixed_precision) or _DTYPES[config.dtype]


def _identities(config: TrainConfig, data: PictureData, loss: LossSum) -> dict[str, Any]:
    """Return the identities of the data, and of the objective, for provenance."""
    held_out = identity_of(config.eval_data, data.held_out, data) if data.held_out else None
    return {
        "data": identity_of(config.data, data.groups, data),
        "eval_data": held_out,
        "beta": loss.beta if loss.reference else None,
        "segments": dict(segments_of(config, loss)) or None,
        "image_term": None if data.steps is None else asdict(data.steps),
    }


def job_of(run: OpenRun[TrainConfig], data: PictureData, painter: Painter, writer: ImageWriter) -> Job:
    """Return the job for the loop."""
    config, loss = run.config, run.loss
    networks: dict[str, nn.Module] = {}
    if isinstance(painter.policy, HybridScorer):
        networks = {"image": painter.policy.image}
    return Job(
        policy=painter.policy,
        source=Offline(data.groups, loss.unit, config.batch_size, config.seed),
        objective=Objective(loss, loss.beta, (), segments_of(config, loss)),
        config=config,
        run=run.folder,
        files=writer.files(),
        evaluation=data.held_out,
        reference=painter.reference,
        start_tolerance=painter.tolerance,
        networks=networks,
        pack=painter.pack,
        budget=config.images_per_batch,
        work=_work,
        counted="noisy_pictures",
        listener=run.listener,
    )


def _work(batch: PictureBatch | HybridBatch) -> tuple[int, int]:
    """Return how many noisy pictures go through the denoiser; none of them is padding."""
    pictures = batch.pictures if isinstance(batch, HybridBatch) else batch
    count = len(pictures.actions.responses)
    return count, count
