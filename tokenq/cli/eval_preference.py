"""`tokenq eval preference`: how often the policy's rewards prefer the chosen response."""

from tokenq.evaluation.config import PreferenceConfig
from tokenq.jobs.outputs import claims


@claims("tokenq eval preference")
def run(config: PreferenceConfig) -> int:
    """Evaluate, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.evaluating import finish, resampling, traces_of
    from tokenq.evaluation.task_preference import preference

    read, rows, cost = traces_of(config, columns=[config.subset] if config.subset else [])
    traces = list(read)
    subsets = {name: str(row[str(config.subset)]) for name, row in rows.items()}
    outcome = preference(traces, subsets, resampling(config))
    return finish(config, outcome.costing(cost), traces)
