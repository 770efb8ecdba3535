"""An online run of an image model: joins prompts, the model, a judge and the training loop."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenq.core.losses import LossSum, find_sum
from tokenq.data.prompts import Prompt, load_prompts
from tokenq.diffusion.batch import PictureBatch, trajectory_term
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.sampling import Steps, spaced_steps
from tokenq.files import plain
from tokenq.jobs.drawing.judge import PictureJudge, picture_judge
from tokenq.jobs.rollout.pictures.lessons import LESSONS, Models
from tokenq.jobs.rollout.pictures.rounds import PictureRounds
from tokenq.jobs.rollout.pictures.settings import refuse_networks, settings_of_pictures
from tokenq.jobs.rollout.settings import loss_of, refuse_loss
from tokenq.jobs.training.absolute import absolute, absolute_source, with_absolute_paths
from tokenq.jobs.training.images.data import PictureData
from tokenq.jobs.training.images.files import ImageWriter
from tokenq.jobs.training.images.run import Painter, image_model_of, job_of, painter_of, with_rates
from tokenq.jobs.training.images.settings import refuse_shards
from tokenq.jobs.training.opening import OpenRun, opened
from tokenq.jobs.training.policy_files import finish
from tokenq.listener import Listener
from tokenq.options import judge_kind
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.methods import OnlineMethod
from tokenq.rollout.rounds import Rounds, planned
from tokenq.training.loop import fit
from tokenq.training.precision import precision_of
from tokenq.training.recorded import FREE_ON_RESUME
from tokenq.training.source import Part
from tokenq.training.stopping import Abandoned, Request


def run_pictures(config: OnlineConfig, listener: Listener, writes: Sequence[Callable[[], None]] = ()) -> None:
    """Train an image model in rounds, and write the run; the arguments are those of `tokenq.jobs.rollout.run.run`.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    config, method = settings_of_pictures(config)
    loss = loss_of(config, method)
    refuse_loss(config, loss, method)
    refuse_networks(config, loss)
    config = _with_absolute(config, loss)
    with opened(config, loss, listener, writes, refuse_shards) as opening:
        _train(opening, method)


def _train(run: OpenRun[OnlineConfig], method: OnlineMethod) -> None:
    """Train an image model in rounds as an open run asks for."""
    config, loss = run.config, run.loss
    prompts = load_prompts(list(config.prompts), config.columns, config.style, config.bad_rows).prompts
    model, steps = _with_steps(image_model_of(run), config)
    data = PictureData((), (), steps, trajectory_term(steps), 0, Counter())
    painter = painter_of(run._replace(loss=find_sum("dpo")), model, data)  # rounds read p_ref
    precision = precision_of(painter.policy, config)
    identities = {**painter.identities, "prompts": _prompts(config, prompts), "data": None, "eval_data": None}
    identities |= {"beta": loss.beta if loss.reference else config.beta, "precision": asdict(precision)}
    identities |= {"image_term": asdict(steps)}
    run.record(identities)
    asked = _Asked(run, method, prompts, steps, identities, Request())
    rounds = _rounds(asked, painter)
    source = Rounds(rounds.plan, loss.unit, config.seed, rounds.groups_of)
    writer = ImageWriter(painter.model, config, run.folder, None)
    job = job_of(run, data, painter, writer)
    job = job if loss.reference else replace(job, reference=None, start_tolerance=None)
    settings = replace(config, max_steps=source.total, save_steps=config.save_steps or rounds.plan.starts()[1])
    job = replace(job, source=source, config=settings, request=asked.request)
    run.listener.say(precision.line(config.optimizer))
    run.listener.say(
        f"online: {config.rounds} rounds of {rounds.counts[0]} prompts × {config.samples_of_prompt} pictures of "
        f"{steps.count} steps, judged by {config.judge}, at most {source.total} steps of "
        f"{config.examples_of_step} {loss.unit.noun} with {config.loss}"
    )
    summary = fit(job, run.accelerator)
    finish(writer, summary, run.accelerator)
    run.listener.say(f"done: the image model is in {writer.place}, every round in {run.folder.round(1).parent}")


class _Asked(NamedTuple):
    """What an online run of pictures is asked for.

    Attributes:
        run: where it is done, and its settings.
        method: its row.
        prompts: what is drawn.
        steps: how.
        identities: of all that is read.
        request: where a signal that asks the run to stop is noted.
    """

    run: OpenRun[OnlineConfig]
    method: OnlineMethod
    prompts: Sequence[Prompt]
    steps: Steps
    identities: Mapping[str, Any]
    request: Request


def _rounds(asked: _Asked, painter: Painter) -> PictureRounds:
    """Return what draws, judges and credits the rounds of a run."""
    config, accelerator = asked.run.config, asked.run.accelerator
    judge = picture_judge(config.judged_by, config.reward_model, str(accelerator.device))
    count = min(len(asked.prompts), config.prompts_per_round or len(asked.prompts))
    most = 1 if asked.method.learns == "pairs" else config.samples_of_prompt
    plan = planned([count * most] * config.rounds, 0, 0.0, config.examples_of_step, config.epochs)

    def policy(batch: PictureBatch) -> Tensor:
        with torch.no_grad():
            logps: Tensor = painter.policy(batch).logps
        return logps

    def pack(parts: Sequence[Part]) -> PictureBatch:
        batch = painter.pack(parts, None)
        assert isinstance(batch, PictureBatch)  # no refiner stands before it
        return batch

    def heed() -> None:
        if asked.request.signum and accelerator.num_processes == 1:  # none of several may leave alone
            raise Abandoned

    assert painter.reference is not None  # it was asked for
    models = Models(policy, painter.reference, pack, str(accelerator.device))
    return PictureRounds(
        config,
        painter.model,
        asked.steps,
        judge,
        LESSONS[asked.method.learns](config, models),
        asked.prompts,
        [count] * config.rounds,
        plan,
        asked.run.folder,
        _key(config, asked.identities, judge),
        accelerator,
        asked.run.listener,
        heed,
    )


def _with_steps(model: ImageModel, config: OnlineConfig) -> tuple[ImageModel, Steps]:
    """Return the model with the guidance at which it is trained, and how it draws."""
    trained = 1.0 if model.guidance is None else model.guidance
    guidance = trained if config.image_guidance is None else config.image_guidance
    steps = spaced_steps(model.schedule, config.image_steps, eta=config.image_eta, guidance=guidance)
    return replace(model, guidance=guidance), steps


def _with_absolute(config: OnlineConfig, loss: LossSum) -> OnlineConfig:
    """Return the settings with a learning rate and with whole paths: a run may be resumed from elsewhere."""
    found = with_absolute_paths(with_rates(config, loss))
    assert isinstance(found, OnlineConfig)  # both change fields and keep the rest
    file, _, name = str(config.judge).rpartition(":")
    judge = f"{absolute(file)}:{name}" if judge_kind(config.judged_by) == "function" else config.judged_by
    model = None if config.reward_model is None else absolute(config.reward_model)
    return replace(found, judge=judge, reward_model=model, prompts=list(map(absolute_source, config.prompts)))


def _prompts(config: OnlineConfig, prompts: Sequence[Prompt]) -> dict[str, Any]:
    said = "\n".join(f"{prompt.id}:{prompt.text!r}" for prompt in prompts)
    return {"sources": list(config.prompts), "sha256": hashlib.sha256(said.encode()).hexdigest()}


_HELD = ("model", "reference", "prompts", "data", "eval_prompts", "judge", "reward_model")
"""Settings that stand in the key by what they hold."""


def _key(config: OnlineConfig, identities: Mapping[str, Any], judge: PictureJudge) -> str:
    """Return a key of all that rounds depend on."""
    settings = {k: v for k, v in asdict(config).items() if k not in FREE_ON_RESUME and k not in _HELD}
    held = [(identities[name] or {}).get("weights") for name in ("model", "reference")]
    said = json.dumps([plain(settings), held, identities["prompts"]["sha256"], judge.identity], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
