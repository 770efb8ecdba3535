"""The settings of `tokenq doctor` and `tokenq.examine`. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenq.errors import UserError
from tokenq.options import ReaderOptions, TextOptions
from tokenq.ranges import Range, check_ranges


@dataclass(frozen=True)
class DoctorConfig(ReaderOptions, TextOptions):
    """Examine a training run, or a policy with its reference and data: is this curve normal, and what to change."""

    run: str | None = None
    """Folder of a run, finished or not."""
    policy: str | None = None
    """Policy without a run: a folder, a hub id, or the folder of an adapter; needs --data."""
    reference: str | None = None
    """Reference of --policy. Default: for an adapter its base; without one only the data is looked at."""
    writer: str | None = None
    """Address of a server that is to write for tokenq online, held to --policy: http://localhost:8000."""
    writer_model: str | None = None
    """Name of the model at --writer. Default: the only one that is served there."""
    data: Sequence[str] = ()
    """Data of --policy, in every form that tokenq train reads; a run brings its own."""

    depth: Literal["record", "data", "models"] = "models"
    """How far to look: what was recorded, the rows too, or the weights too (loads each model once)."""
    answer_prompts: int = 0
    """Prompts that policy and reference answer: shows length, end and repetition of what they write."""
    max_new_tokens: int | None = None
    """Maximum number of tokens of such an answer. Default: what 99 % of the responses in the data need."""
    rows: int = 256
    """Maximum number of pairs of --data that are scored."""

    unit: Literal["pairs", "responses"] = "pairs"
    """What --data is read as: preferences, or demonstrations."""
    max_length: int = 1024
    """Maximum number of tokens of prompt and response together, for --data."""

    output: str | None = None
    """JSON file to write the findings to as well."""
    html: str | None = None
    """Page with findings and curves; one file, opens from disk."""
    overwrite: bool = False
    """Replace files that this command did not write."""

    seed: int = 0
    """Seed of the samples."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)
        if (self.run is None) == (self.policy is None):
            raise UserError("Give either --run or --policy.", "tokenq doctor --run RUN examines a training run.")
        if self.run is not None and (self.data or self.reference or self.columns):
            raise UserError("--run brings its own data and reference.", "Leave out --data, --reference and --columns.")
        if self.writer is not None and (self.policy is None or self.reference is not None):
            raise UserError("--writer is held to a --policy, and to nothing else.", "Give --writer URL --policy MODEL.")
        if self.writer_model is not None and self.writer is None:
            raise UserError("--writer-model without a --writer.", "Give its address: --writer http://localhost:8000.")
        if self.policy is not None and not self.data and self.writer is None:
            raise UserError("--policy without --data: there is nothing to look at.", "Name the data it was trained on.")
        if self.answer_prompts and self.depth != "models":
            raise UserError(f"--answer-prompts needs the models, and --depth is {self.depth}.", "Leave --depth out.")


RANGES = (Range(("answer_prompts",), least=0, most=100_000), Range(("rows",), least=1, most=2**31 - 1))
"""Ranges of the numbers of an examination, beside those that all configurations share."""

SECTIONS = {
    "run": "what to examine",
    "policy": "what to examine",
    "data": "what to examine",
    "depth": "how far",
    "unit": "how data is read",
    "columns": "how data is read",
    "output": "what comes out",
    "dtype": "how",
    "tokens_per_batch": "how",
    "seed": "how",
}

SPELT_ELSEWHERE = {
    "model": "policy",
    "ref": "reference",
    "input": "data",
    "limit": "rows",
    "page": "html",
    "samples": "answer_prompts",
}
