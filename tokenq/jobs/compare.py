"""`tokenq.compare`: trainings from one model on the same data, side by side."""

from collections.abc import Sequence
from dataclasses import asdict
from os import fspath
from pathlib import Path
from typing import Any

from tokenq.comparison.compared_runs import find_setup, read_runs, setups_of
from tokenq.comparison.comparison import compare as compared
from tokenq.comparison.config import CompareConfig
from tokenq.comparison.outcome import outcome_of
from tokenq.jobs.evaluated import Evaluated, write_evaluated
from tokenq.jobs.inputs import Name, settings_of
from tokenq.jobs.outputs import claimed
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Listener
from tokenq.stats.bootstrap import Resampling


@settings_of(CompareConfig)
def compare(  # noqa: D417 (one keyword a setting, each explained there)
    runs: Sequence[Name | Run], *, listener: Listener = SILENCE, **settings: Any
) -> Evaluated:
    """Compare finished training runs that share model, data and held-out pairs, by what they recorded.

    The settings are those of `tokenq compare` (`tokenq compare --help` has a line each).

    Args:
        runs: two or more, as `tokenq.train` returned them, or their folders; those of one configuration under several
            seeds become one row.
        listener: told where numbers and page are.

    Raises:
        UserError: a folder holds no finished and evaluated run, or two runs do not share what they must.
    """
    folders = [fspath(one.folder if isinstance(one, Run) else one) for one in runs]
    config = CompareConfig(runs=folders, **settings)
    config.check()
    files = [Path(name) for name in (config.output, config.html) if name is not None]
    with claimed("tokenq compare", files, overwrite=config.overwrite):
        setups = setups_of(read_runs(folders))
        found = compared(setups, find_setup(setups, config.baseline), Resampling(config.resamples, seed=config.seed))
        recorded = found.baseline.runs[0].record.provenance
        identities = {name: recorded.get(name) for name in ("model", "reference", "data", "eval_data")}
        result = Evaluated(outcome_of(found), "tokenq compare", asdict(config), identities, title="tokenq compare")
        write_evaluated(result, listener)
    return result
