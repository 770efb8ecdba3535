"""The commands on data, as the table of all commands holds them."""

from tokenq.cli.command import Command
from tokenq.cli.told import Told
from tokenq.curation.selection import config as select


def _goes_on(_: object) -> str:
    return "The same command goes on where this one stopped."


CURATION: dict[str, Command] = {
    "select": Command(
        select.SelectConfig,
        Told("tokenq.jobs.curation.select", "select"),
        _goes_on,
        "choose the rows of preference data that are worth training on",
        select.SECTIONS,
        select.SPELT_ELSEWHERE,
        bare="data",
    ),
}
"""Every command on data by its name."""
