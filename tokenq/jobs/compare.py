"""`tokenq.compare`: trainings from one model on the same data, side by side."""

from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike, fspath

from tokenq.comparison.compared_runs import find_setup, read_runs, setups_of
from tokenq.comparison.comparison import compare as compared
from tokenq.comparison.config import CompareConfig
from tokenq.comparison.outcome import outcome_of
from tokenq.jobs.evaluated import Evaluated
from tokenq.jobs.run import Run
from tokenq.ranges import check_ranges
from tokenq.stats.bootstrap import Resampling


def compare(
    runs: Sequence[str | PathLike[str] | Run], *, baseline: str | None = None, seed: int = 0, resamples: int = 2000
) -> Evaluated:
    """Compare finished training runs that share model, data and held-out pairs, by what they recorded.

    Args:
        runs: two or more, as `tokenq.train` returned them, or their folders; those of one configuration under several
            seeds become one row.
        baseline: the run that differences are taken from. Default: the first.
        seed: of the intervals.
        resamples: behind every interval.

    Raises:
        UserError: a folder holds no finished and evaluated run, or two runs do not share what they must.
    """
    folders = [fspath(one.folder if isinstance(one, Run) else one) for one in runs]
    config = CompareConfig(runs=folders, baseline=baseline, seed=seed, resamples=resamples)
    check_ranges(config)
    setups = setups_of(read_runs(folders))
    found = compared(setups, find_setup(setups, baseline), Resampling(resamples, seed=seed))
    recorded = found.baseline.runs[0].record.provenance
    identities = {name: recorded.get(name) for name in ("model", "reference", "data", "eval_data")}
    return Evaluated(outcome_of(found), "tokenq compare", asdict(config), identities, title="tokenq compare")
