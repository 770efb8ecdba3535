"""The settings that may change when a run is resumed: those that move no number, and more steps."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tokenq.errors import UserError
from tokenq.training.config import TrainConfig

FREE_ON_RESUME = frozenset(
    {
        *("attention", "device", "eval_steps", "gradient_checkpointing", "keep_checkpoints", "logging_steps"),
        *("output", "reference_store", "report_to", "resume", "run_name", "save_steps", "tokens_per_batch"),
    }
)
"""Fields in which a resumed run may differ from how it began: they move no number beyond rounding."""

LENGTH = frozenset({"epochs", "max_steps"})
"""Fields that say how long a run is. With others the schedule is stretched to the new end."""

Changes = dict[str, tuple[Any, Any]]
"""Field → what it was, and what it is now."""


def check_resume(config: TrainConfig, recorded: Mapping[str, Any]) -> Changes:
    """Return the changes to the length of a resumed run; refuse other settings than it began with.

    Args:
        config: what is asked for now.
        recorded: the configuration in the run directory (plain YAML values).

    Raises:
        UserError: lists the fields that differ, then and now.
    """
    now = {name: _listed(value) for name, value in asdict(config).items()}
    known = {name: value for name, value in now.items() if name in recorded and name not in FREE_ON_RESUME}
    changed = {name: (recorded[name], value) for name, value in known.items() if recorded[name] != value}
    other = [f"{name} was {was!r}, now {is_!r}" for name, (was, is_) in changed.items() if name not in LENGTH]
    if other:
        raise UserError(
            f"The run in {config.output} began with other settings: {'; '.join(other)}.",
            f"Resume it as it was with --config {config.output}/config.yaml, or start again in another --output.",
        )
    return changed


def refuse_fewer_steps(done: int, total: int) -> None:
    """Refuse to resume a run that has done more steps than are asked for.

    Raises:
        UserError: says how many it has done.
    """
    if done > total:
        raise UserError(
            f"The run has done {done} steps, and {total} are asked for.",
            f"Ask for more with --max-steps or --epochs, or start a run of {total} steps in another --output.",
        )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
