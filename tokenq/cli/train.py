"""`tokenq train`: a training, with its bars and lines on the console."""

from tokenq.training.config import TrainConfig


def run(config: TrainConfig) -> int:
    """Train what `config` says, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.jobs.train import train
    from tokenq.terminal.progress import Progress

    with Progress(config.logging_steps) as progress:
        train(**vars(config), listener=progress)
    return 0
