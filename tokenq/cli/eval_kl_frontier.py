"""`tokenq eval kl-frontier`: quality against KL from the reference."""

from tokenq.cli.outputs import claims
from tokenq.evaluate.eval_config import FrontierConfig


@claims("tokenq eval kl-frontier")
def run(config: FrontierConfig) -> int:
    """Evaluate, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.evaluating import finish, quality_of, resampling, results_of
    from tokenq.evaluate.task_generation import frontier

    config.check()
    return finish(config, frontier(results_of(config.results), quality_of(config), resampling(config)))
