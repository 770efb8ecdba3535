"""The settings of `tokenq select` and `tokenq.select`. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenq.errors import UserError
from tokenq.options import ReaderOptions, RowOptions
from tokenq.ranges import Range, check_ranges


@dataclass(frozen=True)
class SelectConfig(ReaderOptions, RowOptions):
    """Choose the rows of preference data that are worth training on, and write them as they stand."""

    data: Sequence[str]
    """Pairs to choose from, in every form that tokenq train reads; --rule first_error takes solutions in steps."""
    output: str
    """File of the rows that are kept (.jsonl); what it was made of stands beside it."""

    rule: str = "random"
    """What is kept: random, large_margin or small_margin (implicit margins of --run), large_reference_margin or
    small_reference_margin, agreement (of --folds with the label), easy (least loss in --folds), deduplicated, flip_rate
    (estimates how many labels are wrong: agreement, or large margins where it may be half), or first_error,
    which makes pairs of solutions in steps that share all before the first wrong one."""
    keep: float | None = None
    """Share of the pairs to keep. Default: 0.25; all of random (what --drop leaves), deduplicated and first_error."""
    drop: str | None = None
    """Findings of tokenq audit (audit.json): rows of them are left out, but for one of each set of duplicates."""
    drop_kinds: Sequence[str] = ()
    """Kinds of findings of --drop that count. Default: all that name rows."""
    folds: int = 2
    """Policies that are trained for agreement, easy and flip_rate, as --run was: each reads the rows that it has not
    seen."""
    folds_output: str | None = None
    """Folder of these trainings, which a later call goes on from. Default: OUTPUT.folds."""
    batch_size: int | None = None
    """Batch size of the training that follows: fewer than two batches are refused. Default: that of --run, or 8."""
    max_length: int | None = None
    """Maximum number of tokens of prompt and response; longer pairs are cut. Default: what the models can read."""
    overwrite: bool = False
    """Replace a file that this command did not write."""
    seed: int = 0
    """Seed of the draw among equals, and of the folds."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)
        if not self.data:
            raise UserError("There is nothing to choose from.", "Name the data: tokenq select pairs.jsonl --rule …")
        if not self.output.endswith(".jsonl"):
            raise UserError(f"--output {self.output} is no file of JSON lines.", "Name one that ends in .jsonl.")
        if self.drop_kinds and self.drop is None:
            raise UserError("--drop-kinds without --drop.", "Name what tokenq audit wrote: --drop audit.json.")


SECTIONS = {
    "data": "what to choose from, and where to",
    "rule": "how",
    "policy": "models of margins",
    "columns": "how data is read",
    "dtype": "how models compute",
}

SPELT_ELSEWHERE = {"input": "data", "fraction": "keep", "share": "keep", "ref": "reference", "method": "rule"}

RANGES = (
    Range(("keep",), above=0, most=1),
    Range(("folds",), least=2, most=100),
)
"""Ranges of the numbers of a selection, beside those that all configurations share."""
