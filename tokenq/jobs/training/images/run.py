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
from tokenq.jobs.training.opening import opened
from tokenq.jobs.training.output import record_run
from tokenq.jobs.training.policy_files import policy_writer
from tokenq.jobs.training.prepared import load_policy
from tokenq.jobs.training.reference import START_TOLERANCE, autocast, find_reference
from tokenq.jobs.training.run import choose_gradients, finish, loss_parameters, model_to_train, read_template
from tokenq.listener import Listener
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.identity import ModelIdentity, identify
from tokenq.models.tokenizer import load_tokenizer
from tokenq.rundir import provenance
from tokenq.training.config import TrainConfig
from tokenq.training.defaults import image_rate, with_defaults
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
    with opened(config, listener, writes, refuse_shards) as (run_dir, changed, accelerator, listener):
        model = image_model_of(config, accelerator)
        refiner = None if config.image_model is None else _refiner(config, loss, accelerator, listener)
        data = load_pictures(config, loss, model, refiner and refiner.tokenizer, listener)
        model = model if data.steps is None else replace(model, guidance=data.steps.guidance)
        if refiner is not None:
            choose_gradients(refiner.lm, None, config, accelerator)
        painter = painter_of(config, loss, model, data, refiner, accelerator, listener)
        precision = precision_of(painter.policy, config)
        identities = {**painter.identities, **_identities(config, data, loss), "precision": asdict(precision)}
        identities |= {"device": f"{accelerator.device} x {accelerator.num_processes}"}
        record_run(run_dir, config, provenance(asdict(config), config.seed, identities), changed, accelerator)
        words = None if refiner is None else policy_writer(*refiner, config, loss, run_dir)
        writer = ImageWriter(painter.model, config, run_dir, words)
        job = job_of(config, loss, data, painter, writer, listener)
        _say_rates(chosen, config, listener)
        listener.say(precision.line(config.optimizer))
        steps = total_steps(config, job.source.per_epoch)
        listener.say(f"training: {steps} steps of {config.batch_size} {loss.unit.noun}")
        summary = fit(job, accelerator)
        finish(writer, summary, accelerator)
        both = "" if words is None else f", its refiner in {run_dir.policy}"
        listener.say(f"done: the image model is in {writer.place}{both}, every step's numbers in {run_dir.metrics}")


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


def image_model_of(config: TrainConfig, accelerator: Accelerator) -> ImageModel:
    """Return the image model that is trained."""
    device, dtype = str(accelerator.device), _DTYPES[config.dtype]
    model = open_image_model(image_folder(config), lora_rank=config.lora_rank, device=device, dtype=dtype)
    if config.gradient_checkpointing:
        _recompute(model)
    return model


def _refiner(config: TrainConfig, loss: LossSum, accelerator: Accelerator, listener: Listener) -> Refiner:
    """Return the refiner that is trained."""
    spec = model_to_train(config, loss, accelerator)
    tokenizer = load_tokenizer(spec, read_template(config.chat_template))
    return Refiner(load_policy(spec, tokenizer, [], config, listener), tokenizer)


def _recompute(model: ImageModel) -> None:
    """Have a denoiser of diffusers compute its activations again in the backward pass."""
    denoiser: Any = model.denoiser
    try:
        denoiser.enable_gradient_checkpointing()
    except (AttributeError, ValueError):
        said = f"--gradient-checkpointing: the denoiser of {model.name} does not do it."
        raise UserError(said, "Leave it out.") from None


def painter_of(
    config: TrainConfig,
    loss: LossSum,
    model: ImageModel,
    data: PictureData,
    refiner: Refiner | None,
    accelerator: Accelerator,
    listener: Listener,
) -> Painter:
    """Return the policy with its reference."""
    encode = encoder_of(model, lambda text: listener.say(f"warning: {text}"))
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
        online = replace(config, reference_store="off")
        words = find_reference(lm, own, online, accelerator, [], refiner.tokenizer, listener)
        assert words.online is not None
        reference = hybrid_reference(words.online, reference)
        tolerance = None if words.tolerance is None or tolerance is None else max(words.tolerance, tolerance)
        told = {"model": own, "reference": words.identity or own, "image_model": identity}
        policy, pack = HybridScorer(lm, scorer, lm._no_split_modules), packer.hybrid
    identities = {name: one.to_dict() for name, one in told.items()}
    if not loss.reference:
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


def job_of(
    config: TrainConfig,
    loss: LossSum,
    data: PictureData,
    painter: Painter,
    writer: ImageWriter,
    listener: Listener,
) -> Job:
    """Return the job for the loop."""
    networks: dict[str, nn.Module] = {}
    if isinstance(painter.policy, HybridScorer):
        networks = {"image": painter.policy.image}
    return Job(
        policy=painter.policy,
        source=Offline(data.groups, loss.unit, config.batch_size, config.seed),
        objective=Objective(loss, loss.beta, (), segments_of(config, loss)),
        config=config,
        run=writer.run,
        files=writer.files(),
        evaluation=data.held_out,
        reference=painter.reference,
        start_tolerance=painter.tolerance,
        networks=networks,
        pack=painter.pack,
        budget=config.images_per_batch,
        work=_work,
        counted="noisy_pictures",
        listener=listener,
    )


def _work(batch: PictureBatch | HybridBatch) -> tuple[int, int]:
    """Return how many noisy pictures go through the denoiser; none of them is padding."""
    pictures = batch.pictures if isinstance(batch, HybridBatch) else batch
    count = len(pictures.actions.responses)
    return count, count
