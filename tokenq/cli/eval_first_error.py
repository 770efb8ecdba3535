"""`tokenq eval first-error`: which step is the first wrong one."""

from dataclasses import replace

from tokenq.evaluation.config import FirstErrorConfig
from tokenq.jobs.outputs import claims


@claims("tokenq eval first-error")
def run(config: FirstErrorConfig) -> int:
    """Evaluate, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.evaluating import Said, TraceFile, finish, resampling, traces_of
    from tokenq.evaluation.readouts import LEADS
    from tokenq.evaluation.task_first_error import first_error

    traces, _, cost = traces_of(config, ("step",))
    most = int(any(name in LEADS for name in config.readouts))
    outcome = first_error(
        replace(traces, most=most) if isinstance(traces, TraceFile) else traces,
        readouts=config.readouts,
        conventions=config.step_scores,
        folds=config.folds,
        how=resampling(config),
        progress=Said("ways judged"),
    )
    return finish(config, outcome.costing(cost), traces)
