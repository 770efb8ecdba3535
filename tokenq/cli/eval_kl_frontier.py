"""`tokenq eval kl-frontier`: quality against KL from the reference."""

from tokenq.evaluation.config import FrontierConfig
from tokenq.jobs.outputs import claims


@claims("tokenq eval kl-frontier")
def run(config: FrontierConfig) -> int:
    """Evaluate, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.evaluating import finish, judged_results, resampling
    from tokenq.evaluation.task_generation import frontier

    config.check()
    systems, quality = judged_results(config)
    return finish(config, frontier(systems, quality, resampling(config)))
