"""`tokenq compare RUN RUN …`: training runs on the same data from the same model, side by side."""

from tokenq.comparison.config import CompareConfig


def run(config: CompareConfig) -> int:
    """Compare what `config` names, show it, write what is asked for, and return 0.

    Raises:
        UserError: a folder holds no finished and evaluated run, or two runs do not share what they must.
    """
    from tokenq.cli.eval import show
    from tokenq.jobs.compare import compare
    from tokenq.terminal.progress import Progress

    with Progress(1) as progress:
        found = compare(**vars(config), listener=progress)
    return show(found)
