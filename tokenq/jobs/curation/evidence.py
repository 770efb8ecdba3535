"""What rules of selection go by, measured: margins of a run, of its reference, of policies that never saw a pair."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from tokenq.curation.selection.config import SelectConfig
from tokenq.errors import UserError
from tokenq.jobs.curation.folds import FoldMargins, cross_fitted_margins, taken_over
from tokenq.jobs.curation.pool import Pool
from tokenq.jobs.reader import Reader
from tokenq.jobs.score import reader_of
from tokenq.listener import Event, Listener
from tokenq.models.loaded import Loaded
from tokenq.records.examples import Example
from tokenq.runs.record import RunRecord
from tokenq.score.config import ScoreConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measuring:
    """What margins are measured with.

    Attributes:
        config: what is asked for.
        pool: the pairs.
        record: of --run, None without one.
        models: models in memory by role.
        listener: told how far it is.
    """

    config: SelectConfig
    pool: Pool
    record: RunRecord | None
    models: Mapping[str, Loaded]
    listener: Listener

    @cached_property
    def reader(self) -> Reader:
        """Policy and reference."""
        config = self.config
        if config.run is None and config.policy is None:
            raise UserError(
                f"--rule {config.rule} goes by margins, and there is no policy.",
                "Name a finished training run with --run, or models with --policy and --reference.",
            )
        _refuse_without_reference(self.record)
        shared = set(ScoreConfig.__dataclass_fields__) & set(SelectConfig.__dataclass_fields__)
        asked = {name: getattr(config, name) for name in shared - {"output"}}
        settings = ScoreConfig(**asked, levels=(), top_k=0)
        device = str(PartialState(cpu=config.device == "cpu").device)
        return reader_of(settings, device, self.listener, self.models)

    @cached_property
    def totals(self) -> tuple[Floats, Floats]:
        """[N] implicit margins and margins of the reference."""
        rows, _ = self.reader.rows(self.pool.pairs)
        if len(rows) != len(self.pool.pairs):
            raise UserError("Some pairs cannot be read by the models.", "Raise --max-length, or drop these rows.")
        found = []
        for number, (chosen, rejected, *_) in enumerate(self.reader.totals(rows), 1):
            self.listener(Event("reading", number, len(rows)))
            both = chosen.totals, rejected.totals
            reward, reference = ([one.given(name) for one in both] for name in ("implicit_reward", "ref_logp"))
            found.append((reward[0] - reward[1], reference[0] - reference[1]))
        table = np.array(found, np.float64)
        return table[:, 0], table[:, 1]

    @cached_property
    def folds(self) -> FoldMargins:
        """Margins by policies that never saw the pair."""
        config = self.config
        if self.record is None:
            raise UserError(
                f"--rule {config.rule} trains policies, and nothing says how.",
                "Name a finished training run whose settings are taken: --run RUN.",
            )
        _refuse_without_reference(self.record)
        folder = Path(config.folds_output or f"{config.output}.folds")
        training = taken_over(self.record.config) | {"keep_checkpoints": 0}
        return cross_fitted_margins(
            self.pool.pairs, folder, training, folds=config.folds, seed=config.seed, listener=self.listener
        )


def _refuse_without_reference(record: RunRecord | None) -> None:
    if record is not None and not record.loss.reference:
        raise UserError(
            f"{record.path} was trained by {record.config['loss']!r}, which has no reference, so that there are no "
            "implicit margins.",
            "Give a run of a loss with one (dpo), or models: --policy POLICY --reference REFERENCE.",
        )


def first_of_each(pairs: list[Example]) -> NDArray[np.int64]:
    """Return the place of the first pair that says the same as each: one prompt, chosen and rejected text."""
    firsts: dict[Any, int] = {}
    said = ((str(one.prompt), *(str(response.content) for response in one.responses[:2])) for one in pairs)
    return np.array([firsts.setdefault(key, place) for place, key in enumerate(said)], np.int64)


SOURCES: dict[str, Callable[[Measuring], Any]] = {
    "margins": lambda measuring: measuring.totals[0],
    "references": lambda measuring: measuring.totals[1],
    "fitted": lambda measuring: measuring.folds.margins,
    "firsts": lambda measuring: first_of_each(list(measuring.pool.pairs)),
}
"""How each attribute of `Evidence` is measured."""
