"""`tokenq audit`: shows what is wrong with data, and fails at kinds of findings that are named."""

from tokenq.curation.audit.config import AuditConfig


def run(config: AuditConfig) -> int:
    """Audit what `config` names, show the tables, and return the exit code: 1 at a finding of --fail-on.

    Raises:
        UserError: for anything that the user can mend.
    """
    from tokenq.jobs.curation.audit import audit
    from tokenq.report.outcome import tables
    from tokenq.terminal.console import screen
    from tokenq.terminal.progress import Progress

    with Progress(100) as progress:
        found = audit(**vars(config), listener=progress)
    screen().print(*tables(found.shown_tables()))
    failed = found.failed(config.fail_on)
    if failed:
        screen().print(f"--fail-on: found {', '.join(failed)}")
    return 1 if failed else 0
