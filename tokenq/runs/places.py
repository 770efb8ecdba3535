"""Where the models that a run has trained are: its result, its checkpoints, and the best of these."""

import re
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import UserError
from tokenq.files import read_json
from tokenq.rundir import ACCOUNT, RunDir
from tokenq.training.recorded import best_step, evaluations_of, read_config, read_metrics, read_provenance

if TYPE_CHECKING:
    from tokenq.models.load import ModelSpec
    from tokenq.models.run_models import RunModels


def checkpoint_of(run: RunDir, step: int) -> Path:
    """Return the folder of a checkpoint.

    Raises:
        UserError: there is none of that step.
    """
    steps = run.steps()
    if step not in steps:
        known = f"There are checkpoints of the steps {', '.join(map(str, steps))}." if steps else "It kept none."
        raise UserError(f"{run.path} has no checkpoint of step {step}.", f"{known} --keep-checkpoints keeps more.")
    return run.checkpoint(step)


def best_of(run: RunDir, say: Callable[[str], None] = lambda _: None) -> int:
    """Return the step of the best checkpoint: by the run's `keep_best`, or else by the held-out loss.

    Args:
        run: its folder.
        say: told where a better state was not kept.

    Raises:
        UserError: there are no held-out numbers, or no checkpoint that has some.
    """
    metric = read_config(run).get("keep_best") or "eval_loss"
    found, steps = evaluations_of(read_metrics(run)), run.steps()
    of_all, best = best_step(found, metric), best_step({step: found[step] for step in steps if step in found}, metric)
    if of_all is None:
        raise UserError(
            f"{run.path} has no held-out numbers to be best by ({metric}).",
            "Train with --eval-data or --eval-size, --eval-steps and --keep-best.",
        )
    if best is None:
        raise UserError(
            f"No checkpoint of {run.path} was evaluated: {metric} was best at step {of_all}, which was not kept.",
            f"Checkpoints: {', '.join(map(str, steps)) or 'none'}. Train with --keep-best {metric}.",
        )
    if best != of_all:
        say(f"{metric} was best at step {of_all}, which was not kept; the best checkpoint is that of step {best}")
    return best


def home_of(folder: str | PathLike[str] | None) -> RunDir | None:
    """Return the run that a checkpoint is in; None for any other folder.

    Raises:
        UserError: that run has no such checkpoint.
    """
    if folder is None:
        return None
    place = Path(folder).expanduser().absolute()
    run, named = RunDir(place.parent.parent), re.fullmatch(r"step-(\d+)", place.name)
    if named is None or place.parent != run.checkpoints or not run.config.is_file():
        return None
    checkpoint_of(run, int(named[1]))
    return run if (place / ACCOUNT).is_file() else None


def models_of_run(run: str, spec: "ModelSpec") -> "RunModels":
    """Return the models of a training run.

    Args:
        run: its folder, or that of one of its checkpoints.
        spec: how models are loaded; the run says which.

    Raises:
        UserError: the folder holds no finished run.
    """
    from tokenq.models.run_models import recorded_models

    home = home_of(run)
    folder = home or RunDir(Path(run))
    policy, rewards = (folder.policy, folder.reward_model) if home is None else (Path(run), Path(run))
    if is_reward_model(rewards):
        raise UserError(f"{run} holds a reward model and no policy.", f"Score it with --reward-model {rewards}.")
    if not policy.exists():
        raise UserError(f"{run} holds no trained policy.", "Give the --output folder of a finished tokenq train.")
    return recorded_models(policy, read_provenance(folder), spec)


def is_reward_model(folder: Path) -> bool:
    """Return whether a model's folder holds a classifier."""
    config = folder / "config.json"
    kinds = read_json(config).get("architectures") if config.is_file() else None
    return str((kinds or [""])[0]).endswith("ForSequenceClassification")


def run_folder(model: Any) -> Path | None:
    """Return the folder of a run, or of a checkpoint in one, that is given as a model; None for anything else."""
    if not isinstance(model, str | PathLike):
        return None
    folder, run = Path(model).expanduser(), RunDir(Path(model).expanduser())
    is_run = (run.policy.is_dir() or run.reward_model.is_dir()) and not (folder / "config.json").exists()
    return folder if is_run or home_of(folder) else None


def policy_in(folder: Path) -> Path:
    """Return the folder of the policy of a run, or of a checkpoint."""
    return RunDir(folder).policy if home_of(folder) is None else folder
