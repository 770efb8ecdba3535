"""`tokenq eval best-of-n`: accuracy against n, from stored samples."""

from tokenq.errors import UserError
from tokenq.evaluation.config import BestOfNConfig
from tokenq.jobs.outputs import claims


@claims("tokenq eval best-of-n")
def run(config: BestOfNConfig) -> int:
    """Evaluate, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.evaluating import finish, judged_results, resampling, with_answers
    from tokenq.evaluation.task_best_of_n import best_of_n

    config.check()
    systems, quality = judged_results(config)
    if len(systems) > 1:
        raise UserError("best-of-n reads the samples of one system.", "Name one file with --results.")
    (name, found), *_ = systems.items()
    if any(one.method != "sample" for one in found):
        raise UserError(f"{name} holds no plain samples.", "Draw them: tokenq search --method sample --n 16.")
    results = with_answers(config, found)
    outcome = best_of_n(results, quality, beta=config.beta, rankings=config.rankings, how=resampling(config))
    return finish(config, outcome)
