"""`tokenq compare RUN RUN …`: training runs on the same data from the same model, side by side."""

from tokenq.comparison.config import CompareConfig
from tokenq.jobs.outputs import claims


@claims("tokenq compare")
def run(config: CompareConfig) -> int:
    """Compare what `config` names, show it, write what is asked for, and return 0.

    Raises:
        UserError: a folder holds no finished and evaluated run, or two runs do not share what they must.
    """
    from tokenq.cli.evaluating import show
    from tokenq.jobs.compare import compare

    found = compare(config.runs, baseline=config.baseline, seed=config.seed, resamples=config.resamples)
    return show(config, found)
