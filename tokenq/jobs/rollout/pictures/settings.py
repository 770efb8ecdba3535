"""What an online run of an image model may be asked for: the methods whose rounds it can do, by what they ask for."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from tokenq.core.losses import LossSum
from tokenq.errors import UserError
from tokenq.jobs.drawing.config import refuse_judge
from tokenq.jobs.rollout.settings import filled_in
from tokenq.options import PictureOptions
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.credits import CREDITS
from tokenq.rollout.methods import Draw, OnlineMethod

_TAKE = "Take dpo or ipo, or reinforce, rloo, grpo, dr_grpo or dapo."


def settings_of_pictures(config: OnlineConfig) -> tuple[OnlineConfig, OnlineMethod]:
    """Return the settings with those of the method where none were given, and the method's row.

    Raises:
        UserError: the method, or a setting, asks for something that rounds of pictures do not have.
    """
    _refuse_settings(config)
    # Losses that count by the length of a response read it off the most tokens: here these are its steps.
    config, method = filled_in(replace(config, max_new_tokens=config.image_steps))
    _refuse_method(config, method)
    return config, method


def _refuse_settings(config: OnlineConfig) -> None:
    given: Mapping[str, Any] = {
        "--environment": config.environment,
        "--eval-prompts": config.eval_prompts,
        "--eval-size": config.eval_size,
        "--data": config.data,
        "--image-model": config.image_model,
        "--replay": config.replay,
        "--label-budget": config.label_budget,
        "--flip-labels": config.flip_labels,
        "--segments": config.segments,
        "--token-rewards": config.token_rewards not in ("auto", "none"),
        "--filter-accuracy": config.filter_accuracy,
        "--image-term error": config.image_term == "error",
        f"--writer {config.writer}": config.writer != "local",
    }
    for flag in (flag for flag, value in given.items() if value):
        raise UserError(f"{flag} is given, and an image model learns in rounds.", "Leave it out; docs/images.md.")
    refuse_judge(config.judged_by, config.reward_model)


def _refuse_method(config: OnlineConfig, method: OnlineMethod) -> None:
    plain = len(method.draws) == 1 and method.draws[0] == Draw("policy", method.draws[0].count)
    if not plain or method.reference_moves != "never" or method.needs:
        said = "writes or compares more than what the policy draws from the prompts"
        raise UserError(f"--method {config.method} {said}, which pictures cannot do yet.", _TAKE)
    if method.learns == "pairs" and config.pairs != "best_worst":
        raise UserError(f"--pairs {config.pairs} is not for pictures yet.", "Take --pairs best_worst.")
    if method.learns == "advantages" and CREDITS[config.credit].valued:
        raise UserError(
            f"--credit {config.credit} needs a value network, and an image model has none yet.",
            f"Give --credit leave_one_out --samples 4. {_TAKE}",
        )


def refuse_picture_settings(config: OnlineConfig) -> None:
    """Refuse settings of an image model where none learns in rounds.

    Raises:
        UserError: names one of them.
    """
    defaults = {one.name: one.default for one in fields(OnlineConfig)}
    names = ("image_steps", "image_eta", "image_guidance", *(one.name for one in fields(PictureOptions)))
    for name in (name for name in names if getattr(config, name) != defaults[name]):
        hint = "Leave it out, or name the folder of a diffusers pipeline: --model PIPELINE."
        raise UserError(f"--{name.replace('_', '-')} is given, and {config.model} is no image model.", hint)


def refuse_networks(config: OnlineConfig, loss: LossSum) -> None:
    """Refuse a loss that trains more than the policy.

    Raises:
        UserError: names what it trains.
    """
    if others := sorted({*loss.networks} - {"policy"}):
        raise UserError(f"Loss {config.loss!r} trains {', '.join(others)} beside an image model.", _TAKE)
