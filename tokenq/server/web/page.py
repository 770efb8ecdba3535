"""The page of the app and its files: the parts of the report's pages, and what is the app's alone. No data is in them.

The page asks for its data afterwards, with the key where the server has one, so that page and files may be open to all.
"""

from functools import cache
from importlib import resources
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

import tokenq
from tokenq.report.html import PARTS
from tokenq.report.offline import json_island, static_text
from tokenq.server.web.view import blank_index

OWN = ("server.js", "tree.js", "draft.js", "choices.js", "runs.js", "searches.js", "sessions.js", "app.js")
LAST = ("search_tree.js",)
"""The parts of the script that stand behind those of the report's pages; the last one begins."""

STYLES = ("theme.css", "tokens.css", "page.css", "search.css")
"""The parts of the style that are the report's."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
"""What a browser may do with the page: run and load what this server has, and nothing else."""


class File(NamedTuple):
    """A file of the page.

    Attributes:
        text: what is in it.
        kind: its content type.
    """

    text: str
    kind: str


@cache
def page_of() -> str:
    """Return the page."""
    loader = PackageLoader("tokenq.server.web", "static")
    templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    index = json_island(blank_index())
    return templates.get_template("app.html.jinja").render(index=index, version=tokenq.__version__)


@cache
def file_of(name: str) -> File | None:
    """Return a file of the page, None where it has none of that name."""
    if name == "app.js":
        parts = [*map(static_text, PARTS), *map(_own, OWN), *map(static_text, LAST)]
        return File('"use strict";\n{\n' + "\n".join(parts) + "\n}\n", "text/javascript; charset=utf-8")
    if name == "app.css":
        return File("\n".join([*map(static_text, STYLES), _own("app.css")]), "text/css; charset=utf-8")
    return None


def _own(name: str) -> str:
    return (resources.files("tokenq.server.web") / "static" / name).read_text(encoding="utf-8")
