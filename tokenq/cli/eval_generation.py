"""`tokenq eval generation`: how good stored answers are, beside their cost."""

from tokenq.evaluation.config import GenerationConfig
from tokenq.jobs.outputs import claims


@claims("tokenq eval generation")
def run(config: GenerationConfig) -> int:
    """Evaluate, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.evaluating import finish, judged_results, resampling
    from tokenq.evaluation.task_generation import generation

    config.check()
    systems, quality = judged_results(config)
    return finish(config, generation(systems, quality, resampling(config)))
