"""`tokenq online`: rounds of writing, judging and learning, with their bars and lines on the console."""

from tokenq.rollout.config import OnlineConfig


def run(config: OnlineConfig) -> int:
    """Train in rounds what `config` says, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.jobs.rollout.online import online
    from tokenq.terminal.progress import Progress

    with Progress(config.logging_steps) as progress:
        online(**vars(config), listener=progress)
    return 0
