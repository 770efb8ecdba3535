"""The commands on data, as the table of all commands holds them."""

from tokenq.cli import again
from tokenq.cli.command import Command
from tokenq.cli.curation.audit import run as run_audit
from tokenq.cli.told import Told
from tokenq.curation.audit import config as audit
from tokenq.curation.selection import config as select
from tokenq.jobs.density import config as densify

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
    "densify": Command(
        densify.DensifyConfig,
        Told("tokenq.jobs.density.densify", "densify"),
        again.goes_on,
        "write summaries of one length that say more at each step (Chain of Density)",
        densify.SECTIONS,
        densify.SPELT_ELSEWHERE,
        bare="articles",
    ),
}
"""Every command on data by its name."""
