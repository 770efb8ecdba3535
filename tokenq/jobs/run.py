"""A run, as Python sees it: its folder, its numbers, and what it trained, at its end and at its checkpoints."""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.files import JsonLines
from tokenq.report.notebook import frame
from tokenq.rundir import RunDir
from tokenq.runs.places import best_of, checkpoint_of
from tokenq.training.recorded import evaluations_of, read_metrics

if TYPE_CHECKING:
    from pandas import DataFrame


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
class Run(PathLike[str]):
    """A training that has ended; goes wherever its folder goes.

    Attributes:
        folder: its folder, which every command takes too (`tokenq doctor FOLDER`).
    """

    folder: Path

    def __fspath__(self) -> str:
        """Return the folder."""
        return str(self.folder)

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
