"""A run, as Python sees it: its folder, its numbers, and what it trained, at its end and at its checkpoints."""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import UserError
from tokenq.files import JsonLines, read_json
from tokenq.report.notebook import frame
from tokenq.rundir import ACCOUNT, RunDir
from tokenq.training.recorded import best_step, evaluations_of, read_config, read_metrics, read_provenance

if TYPE_CHECKING:
    from pandas import DataFrame

    from tokenq.models.load import ModelSpec
    from tokenq.models.run_models import RunModels


class Rows(list[dict[str, Any]]):
    """Rows of numbers: a list of dictionaries that gives itself as a table."""

    def to_frame(self) -> "DataFrame":
        """Return a pandas table, a row each.

        Raises:
            UserError: pandas is not installed.
        """
        return frame(self)


@dataclass(frozen=True)
class Checkpoint(PathLike[str]):
    """What a run had trained after so many steps; goes wherever the name of a model goes.

    Attributes:
        folder: in the layout that transformers, or peft, loads.
        run: the folder of the run.
        step: updates done; None for the end of the run.
        is_merged: whether it goes out with its adapter in its base.
    """

    folder: Path
    run: Path
    step: int | None = None
    is_merged: bool = False

    def __fspath__(self) -> str:
        """Return the folder."""
        return str(self.folder)

    __str__ = __fspath__  # which transformers and peft ask for

    @property
    def metrics(self) -> dict[str, Any]:
        """The held-out numbers of its step; none where it was not evaluated."""
        found = evaluations_of(read_metrics(RunDir(self.run)))
        return dict(found.get(max(found, default=0) if self.step is None else self.step, {}))

    def merge(self, output: "str | PathLike[str] | None" = None) -> "Checkpoint":
        """Write a copy with its adapter merged into its base, as `tokenq export --merge` does, and return it.

        Args:
            output: where to; by default beside the run's own results.

        Raises:
            UserError: it is no adapter.
        """
        from tokenq.jobs.export import export

        default = self.run / "merged" / ("policy" if self.step is None else f"step-{self.step}")
        folder = export(self.run, output or default, step=self.step, merge=True)
        return Checkpoint(folder, self.run, self.step, is_merged=True)

    def push_to_hub(self, name: str) -> None:
        """Upload it under a name of the hub, with a model card, as `tokenq export --push-to-hub` does.

        Raises:
            UserError: there is no token of the hub, or the hub refuses.
        """
        from tokenq.jobs.export import export

        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / Path(name).name
            export(self.run, output, step=self.step, merge=self.is_merged, push_to_hub=name)


@dataclass(frozen=True)
class Run:
    """A training that has ended.

    Attributes:
        folder: its folder, which every command takes too (`tokenq doctor FOLDER`).
    """

    folder: Path

    @property
    def policy(self) -> Path:
        """The folder of the policy, in the layout that transformers loads."""
        return RunDir(self.folder).policy

    @property
    def image_policy(self) -> Path:
        """The folder of the image model, where one was trained behind a refiner, which is `policy`."""
        return RunDir(self.folder).image_policy

    @property
    def reward_model(self) -> Path:
        """The folder of the reward model, where one was trained and no policy."""
        return RunDir(self.folder).reward_model

    @cached_property
    def metrics(self) -> Rows:
        """A row for each update and each evaluation, as metrics.jsonl has it."""
        return Rows(JsonLines(RunDir(self.folder).metrics).read())

    @property
    def best(self) -> Checkpoint:
        """The checkpoint of the best evaluation, by `keep_best` or else by the held-out loss."""
        return self.checkpoint(best_of(RunDir(self.folder)))

    def checkpoint(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step.

        Raises:
            UserError: it was not kept.
        """
        return Checkpoint(checkpoint_of(RunDir(self.folder), step), self.folder, step)

    def merge(self, output: "str | PathLike[str] | None" = None) -> Checkpoint:
        """Write a copy of the policy with its adapter merged into its base, and return it; see `Checkpoint.merge`."""
        return Checkpoint(self.policy, self.folder).merge(output)

    def push_to_hub(self, name: str) -> None:
        """Upload the policy under a name of the hub; see `Checkpoint.push_to_hub`."""
        Checkpoint(self.policy, self.folder).push_to_hub(name)


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
    if isinstance(model, Run):
        return model.folder
    if not isinstance(model, str | PathLike):
        return None
    folder = Path(model).expanduser()
    is_run = RunDir(folder).policy.is_dir() and not (folder / "config.json").exists()
    return folder if is_run or home_of(folder) else None


def policy_in(folder: Path) -> Path:
    """Return the folder of the policy of a run, or of a checkpoint."""
    return RunDir(folder).policy if home_of(folder) is None else folder
