"""The settings of `tokenq audit` and `tokenq.audit`. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenq.curation.audit.finding import check_kinds
from tokenq.errors import UserError
from tokenq.options import DeviceOptions, TextOptions
from tokenq.ranges import Range, check_ranges


@dataclass(frozen=True)
class AuditConfig(DeviceOptions, TextOptions):
    """Look for what is wrong with preference data: copies, contradictions, shortcuts, cut responses, wrong labels."""

    data: Sequence[str]
    """Files, folders or hub ids, as tokenq train reads them; weights count for nothing."""
    eval_data: Sequence[str] = ()
    """Held-out data: rows and prompts that are in both are found, and nothing else is learnt from it."""

    bad_rows: Literal["error", "drop"] = "drop"
    """What to do with a row that cannot be read: stop, or have it among the findings (unusable)."""
    similarity: float = 0.6
    """Jaccard index of word pairs, of prompt and of responses each, from which on rows are near duplicates."""
    bias_above: float = 0.6
    """Accuracy of a shortcut (length, first word, format, bag of words) above which it is a finding, with its whole
    interval."""
    tokenizer: str | None = None
    """Model whose tokenizer counts tokens: finds responses that were cut at a number of them."""

    run: str | None = None
    """Folder of a finished run: reads every pair, for the most suspicious ones with their heat maps. With --folds, what
    is trained and how."""
    folds: int = 0
    """Policies that are trained, each without one fold of the prompts, which it then reads: estimates the share of
    wrong labels. Needs --run or --model."""
    model: str | None = None
    """Model that the policies of --folds start from, where there is no --run."""
    fold_dir: str | None = None
    """Folder for what --folds trains, which is not trained again. Default: beside --output, or else --html."""
    beta: float | None = None
    """KL temperature of these trainings. Default: as tokenq train, or --run, has it; so for the following."""
    learning_rate: float | None = None
    """Their peak learning rate."""
    epochs: float | None = None
    """Passes over the pairs."""
    batch_size: int | None = None
    """Pairs per step."""
    top: int = 20
    """Most suspicious pairs that are shown with their heat maps."""

    fail_on: Sequence[str] = ()
    """Kinds of findings at which the command exits with 1, such as duplicate contradiction, or any."""
    output: str | None = None
    """JSON file of the findings; tokenq select --drop takes it."""
    html: str | None = None
    """Page with findings, numbers and heat maps; one file, opens from disk."""
    overwrite: bool = False
    """Replace files that this command did not write."""

    tokens_per_batch: int = 4096
    """Maximum number of tokens in one forward pass. Affects only memory and speed."""
    seed: int = 0
    """Seed of the folds, and of their trainings with --model."""

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)
        check_kinds(self.fail_on)
        if not self.data:
            raise UserError("No data is given.", "Name a file, a folder or a hub id: tokenq audit pairs.jsonl.")
        if self.folds and self.run is None and self.model is None:
            raise UserError(
                "--folds trains policies, and nothing says of what.", "Give --run RUN (as it was trained) or --model M."
            )
        if self.run is not None and self.model is not None:
            raise UserError("--run and --model are both given.", "A run brings its own model: leave one out.")
        if self.folds == 1:
            raise UserError("--folds is 1.", "It must be 2 or more: each policy is trained on the other folds.")
        if self.folds and self.place() is None:
            raise UserError("--folds trains, and has no place for it.", "Give --output, --html or --fold-dir.")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse settings of trainings where nothing is trained."""
        trained = ("model", "fold_dir", "beta", "learning_rate", "epochs", "batch_size")
        if not self.folds and (idle := [name for name in trained if getattr(self, name) is not None]):
            raise UserError(
                f"--{idle[0].replace('_', '-')} is for trainings, and none is asked for.",
                "Add --folds 5, or leave it out.",
            )

    def place(self) -> str | None:
        """Return the folder for what is trained."""
        beside = self.output or self.html
        return self.fold_dir or (
            None if beside is None else f"{beside.removesuffix('.json').removesuffix('.html')}.folds"
        )


RANGES = (
    Range(("similarity",), least=0.5, most=1),
    Range(("bias_above",), least=0.5, below=1),
    Range(("folds",), least=0, most=1000),
    Range(("learning_rate",), above=0, most=10),
    Range(("epochs",), above=0, most=10_000),
    Range(("top",), least=0, most=10_000),
)
"""Ranges of the numbers of an audit, beside those that all configurations share."""

SECTIONS = {
    "data": "what to look at",
    "columns": "how it is read",
    "bad_rows": "how it is read",
    "similarity": "what counts",
    "run": "wrong labels",
    "fail_on": "what comes out",
    "dtype": "how",
    "tokens_per_batch": "how",
}

SPELT_ELSEWHERE = {
    "input": "data",
    "file": "data",
    "policy": "run",
    "model_name_or_path": "model",
    "page": "html",
    "threshold": "similarity",
    "jaccard": "similarity",
    "held_out": "eval_data",
    "k": "folds",
    "fail": "fail_on",
}
