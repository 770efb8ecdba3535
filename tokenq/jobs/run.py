"""A run that has ended, as Python sees it: its folder, its numbers, and what it trained."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.rundir import RunDir

if TYPE_CHECKING:
    from pandas import DataFrame


class Rows(list[dict[str, Any]]):
    """Rows of numbers: a list of dictionaries that gives itself as a table."""

    def to_frame(self) -> "DataFrame":
        """Return a pandas table, a row each.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as problem:
            raise UserError("A table needs pandas, which is missing.", "pip install pandas") from problem
        return pandas.DataFrame(list(self))


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
