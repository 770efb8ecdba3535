"""`tokenq sweep`: search the same prompts in many ways, and put quality against cost."""

from tokenq.evaluation.sweep_config import SweepConfig


def run(config: SweepConfig) -> int:
    """Do what `config` asks for, judged by its true answers or its reward model, and return the exit code.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.cli.search import INTERRUPTED, interruptible
    from tokenq.jobs.outputs import is_first
    from tokenq.jobs.sweep import sweep
    from tokenq.report.outcome import tables
    from tokenq.report.sweep import sweep_tables
    from tokenq.terminal.console import screen
    from tokenq.terminal.progress import Progress

    with Progress(1, enabled=is_first()) as progress, interruptible(progress) as interrupted:
        found = sweep(**vars(config), listener=progress, interrupted=interrupted)
    if is_first() and not found.interrupted:
        screen().print(*tables(sweep_tables(found.points)))
    return INTERRUPTED if found.interrupted else 0
