"""The commands on data, as the table of all commands holds them."""

from tokenq.cli import again
from tokenq.cli.command import Command
from tokenq.cli.curation.audit import run as run_audit
from tokenq.cli.told import Told
from tokenq.curation.audit import config as audit
from tokenq.curation.selection import config as select

CURATION: dict[str, Command] = {
    "audit": Command(
        audit.AuditConfig,
        run_audit,
        again.goes_on,
        "look for what is wrong with data: copies, contradictions, shortcuts, cut responses, wrong labels",
        audit.SECTIONS,
        audit.SPELT_ELSEWHERE,
        bare="data",
    ),
    "select": Command(
        select.SelectConfig,
        Told("tokenq.jobs.curation.select", "select"),
        again.goes_on,
        "choose the rows of preference data that are worth training on",
        select.SECTIONS,
        select.SPELT_ELSEWHERE,
        bare="data",
    ),
}
"""Every command on data by its name."""
