"""Search results as one HTML page: what was found for each prompt, and the tree of what was looked at on the way.

The page is closed as the page of traces is: it opens from disk, loads and sends nothing, and texts of models and data
travel as JSON that no browser runs. What it shows is decided in `search_view`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenq.files import write_text
from tokenq.report.offline import offline_page
from tokenq.report.search_view import search_view
from tokenq.results import SearchResult

SCRIPTS = ("data.js", "search.js", "search_candidates.js", "search_tree.js")
"""The parts of the page's script, in the order in which they are put together; data.js is that of the other page."""

STYLES = ("theme.css", "tokens.css", "page.css", "search.css")
"""The parts of its style; all but the last are those of the other page."""


def search_page(
    results: Sequence[SearchResult], *, title: str = "tokenq search", record: Mapping[str, Any] = {}
) -> str:
    """Return a self-contained HTML page that shows the results.

    Args:
        results: what to show, in this order.
        title: of the page.
        record: where they come from, as provenance has it.
    """
    data = search_view(results)
    islands = {"index": {name: value for name, value in data.items() if name != "results"}}
    islands |= {f"result-{number}": result for number, result in enumerate(data["results"])}
    return offline_page("search.html.jinja", SCRIPTS, STYLES, title, islands, record)


def write_search_page(
    path: Path, results: Sequence[SearchResult], *, title: str, record: Mapping[str, Any] = {}
) -> None:
    """Write the page of `results` to `path`, aside and renamed.

    Args:
        path: where to.
        results: what to show, in this order.
        title: of the page.
        record: where they come from, as provenance has it.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    write_text(path, search_page(results, title=title, record=record))
