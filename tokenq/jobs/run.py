"""A run that has ended, as Python sees it: its folder, its numbers, and what it trained."""

from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.report.notebook import frame
from tokenq.rundir import RunDir
from tokenq.training.recorded import read_provenance

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
    def reward_model(self) -> Path:
        """The folder of the reward model, where one was trained and no policy."""
        return RunDir(self.folder).reward_model

    @cached_property
    def metrics(self) -> Rows:
        """A row for each update and each evaluation, as metrics.jsonl has it."""
        return Rows(JsonLines(RunDir(self.folder).metrics).read())


def models_of_run(run: str, spec: "ModelSpec") -> "RunModels":
    """Return the models of a finished training run.

    Args:
        run: its folder.
        spec: how models are loaded; the run says which.

    Raises:
        UserError: the folder holds no finished run.
    """
    from tokenq.models.run_models import recorded_models

    folder = RunDir(Path(run))
    if not folder.policy.exists():
        if folder.reward_model.exists():
            raise UserError(
                f"{run} holds a reward model and no policy.", f"Score it with --reward-model {folder.reward_model}."
            )
        raise UserError(f"{run} holds no trained policy.", "Give the --output folder of a finished tokenq train.")
    return recorded_models(folder.policy, read_provenance(folder), spec)


def run_folder(model: Any) -> Path | None:
    """Return the folder of a run that is given as a model: a run, or its folder; None for anything else."""
    if isinstance(model, Run):
        return model.folder
    if not isinstance(model, str | PathLike):
        return None
    folder = Path(model).expanduser()
    return folder if RunDir(folder).policy.is_dir() and not (folder / "config.json").exists() else None
