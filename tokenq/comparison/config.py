"""The settings of a comparison of runs. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenq.evaluation.config import Evaluation


@dataclass(frozen=True)
class CompareConfig(Evaluation):
    """Compare finished training runs that share model, data and held-out pairs, by what they recorded."""

    runs: Sequence[str] = ()
    """Folders of two runs or more; those of one configuration under several seeds become one row."""
    baseline: str | None = None
    """Run that differences are taken from. Default: the first."""


SECTIONS = {"output": "what comes out", "runs": "what to compare"}

SPELT_ELSEWHERE = {"run": "runs", "page": "html", "json": "output", "reference": "baseline"}
