"""`tokenq play`: episodes of a policy with an environment, and what they come to."""

from tokenq.rollout.episodes.config import PlayConfig


def run(config: PlayConfig) -> int:
    """Play what `config` says, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.jobs.outputs import is_first
    from tokenq.jobs.playing.play import play
    from tokenq.terminal.progress import Progress

    with Progress(1, enabled=is_first()) as progress:
        play(**vars(config), listener=progress)
    return 0
