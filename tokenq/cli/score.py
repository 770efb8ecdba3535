"""`tokenq score`: read a policy against its reference, token by token, and write what they say as traces."""

from tokenq.score.config import ScoreConfig


def run(config: ScoreConfig) -> int:
    """Score what `config` says, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.jobs.outputs import is_first
    from tokenq.jobs.score import score
    from tokenq.report.notebook import Traces
    from tokenq.report.terminal import card
    from tokenq.terminal.console import screen
    from tokenq.terminal.progress import Progress

    config.check_command()
    with Progress(1, enabled=is_first()) as progress:
        traces = score(**vars(config), listener=progress)
    if config.prompt is not None and is_first() and isinstance(traces, Traces):
        screen(None).print(*map(card, traces))
    return 0
