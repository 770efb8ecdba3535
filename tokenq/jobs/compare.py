"""`tokenq.compare`: trainings from one model on the same data, side by side."""

from collections.abc import Sequence
from dataclasses import asdict
from os import fspath
from pathlib import Path

from tokenq.comparison.compared_runs import find_setup, read_runs, setups_of
from tokenq.comparison.comparison import compare as compared
from tokenq.comparison.config import CompareConfig
from tokenq.comparison.outcome import outcome_of
from tokenq.jobs.evaluated import Evaluated, write_evaluated
from tokenq.jobs.inputs import Name
from tokenq.jobs.outputs import claimed
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Listener
from tokenq.stats.bootstrap import Resampling


def compare(
    runs: Sequence[Name | Run],
    *,
    listener: Listener = SILENCE,
    baseline: str | None = None,
    output: Name | None = None,
    html: Name | None = None,
    overwrite: bool = False,
    seed: int = 0,
    resamples: int = 2000,
) -> Evaluated:
    """Compare finished training runs that share model, data and held-out pairs, by what they recorded.

    Args:
        runs: two or more, as `tokenq.train` returned them, or their folders; those of one configuration under several
            seeds become one row.
        listener: told where numbers and page are.
        baseline: the run that differences are taken from. Default: the first.
        output: JSON file of all numbers.
        html: page of tables and figures.
        overwrite: replace files that other commands wrote.
        seed: of the intervals.
        resamples: behind every interval.

    Raises:
        UserError: a folder holds no finished and evaluated run, or two runs do not share what they must.
    """
    folders = [fspath(one) for one in runs]
    files = {"output": None if output is None else fspath(output), "html": None if html is None else fspath(html)}
    config = CompareConfig(
        runs=folders, baseline=baseline, seed=seed, resamples=resamples, overwrite=overwrite, **files
    )
    config.check()
    with claimed("tokenq compare", [Path(path) for path in files.values() if path], overwrite=overwrite):
        setups = setups_of(read_runs(folders))
        found = compared(setups, find_setup(setups, baseline), Resampling(resamples, seed=seed))
        recorded = found.baseline.runs[0].record.provenance
        identities = {name: recorded.get(name) for name in ("model", "reference", "data", "eval_data")}
        result = Evaluated(outcome_of(found), "tokenq compare", asdict(config), identities, title="tokenq compare")
        write_evaluated(result, listener)
    return result
