"""Traces and answers as Python sees them: in a notebook, in a terminal, as a table, as a page.

IPython and pandas are imported when they are asked for. Nothing is computed here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tokenq.errors import UserError
from tokenq.records.results import SearchResult, read_results
from tokenq.records.trace_files import read_traces
from tokenq.records.trace_records import without_none
from tokenq.records.trace_tokens import Spans, Tokens
from tokenq.records.traces import TokenTrace, Totals
from tokenq.report.channels import NUMBERS
from tokenq.report.html import fragment, write_page

if TYPE_CHECKING:
    from pandas import DataFrame

_COLUMNS = ("id", "text", "start", "end", "written", *NUMBERS)


@dataclass(frozen=True)
class TraceView:
    """A trace that can show itself.

    Attributes:
        trace: the trace.
    """

    trace: TokenTrace = field(repr=False)

    def __repr__(self) -> str:
        """Return the trace in one line."""
        return f"TraceView({self.trace.id!r}, {len(self.tokens)} tokens, {self.totals})"

    @property
    def tokens(self) -> Tokens:
        """The tokens of the response."""
        return self.trace.tokens

    @property
    def spans(self) -> Spans:
        """The stretches of the response, of all levels."""
        return self.trace.spans

    @property
    def totals(self) -> Totals:
        """Sums over the tokens that the policy wrote."""
        return self.trace.totals

    def _repr_html_(self) -> str:
        """Return the coloured text as HTML; notebooks ask for this by this name."""
        return fragment(self.trace)

    def show(self) -> None:
        """Show the coloured text: as HTML in a notebook, as coloured letters anywhere else."""
        if _in_notebook():
            from IPython.display import HTML, display

            display(HTML(fragment(self.trace)))
            return
        from rich.console import Console

        from tokenq.report.terminal import card

        Console().print(card(self.trace))

    def to_frame(self) -> "DataFrame":
        """Return a pandas table with one row per token: id, piece, place, and every number of `TraceToken`.

        Raises:
            UserError: pandas is not installed.
        """
        return frame(_columns(self.trace))


@dataclass(frozen=True)
class Traces:
    """The traces of a scoring, in the order of its rows.

    Attributes:
        source: the traces, or the file that they are in, which is read anew each time they are gone through.
        title: of the page.
        record: where they come from.
    """

    source: Iterable[TokenTrace] | Path = field(repr=False)
    title: str = "tokenq"
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[TokenTrace]:
        """Go through the traces, one after the other."""
        return read_traces(self.source) if isinstance(self.source, Path) else iter(self.source)

    def to_frame(self) -> "DataFrame":
        """Return a pandas table with one row per token, the id of its trace first.

        Raises:
            UserError: pandas is not installed.
        """
        columns: dict[str, list[Any]] = {name: [] for name in ("trace", *_COLUMNS)}
        for trace in self:
            for name, values in ({"trace": [trace.id] * len(trace.tokens)} | _columns(trace)).items():
                columns[name] += values
        return frame(columns)

    def html(self, path: str | Path) -> Path:
        """Write the page of all traces, which opens from disk, and return its file."""
        write_page(Path(path), self, self.title, self.record)
        return Path(path)

    def figure(self, path: str | Path) -> Path:
        """Draw the first trace as .svg, .png or .pdf, and return the file.

        Raises:
            UserError: matplotlib is not installed.
        """
        from tokenq.report.plots import save_figure

        save_figure(Path(path), next(iter(self)))
        return Path(path)

    def _repr_html_(self) -> str:
        """Return the coloured texts of the first traces; notebooks ask for this by this name."""
        return "".join(fragment(trace) for trace, _ in zip(self, range(_SHOWN), strict=False))


_SHOWN = 20
"""Traces, or answers, that a notebook shows unasked."""


@dataclass(frozen=True)
class SearchResults(Sequence[SearchResult]):
    """What a search found, a result for each prompt, in their order.

    Attributes:
        source: the results, or the file that they are in, which is read when they are asked for.
        title: of the page.
        record: where they come from.
        interrupted: whether the search was stopped before its end.
    """

    source: Sequence[SearchResult] | Path = field(repr=False)
    title: str = "tokenq search"
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    interrupted: bool = False

    @cached_property
    def _results(self) -> Sequence[SearchResult]:
        return list(read_results(self.source)) if isinstance(self.source, Path) else self.source

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._results)

    @overload
    def __getitem__(self, place: int) -> SearchResult: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[SearchResult]: ...
    def __getitem__(self, place: int | slice) -> SearchResult | Sequence[SearchResult]:
        """Return a result."""
        return self._results[place]

    def to_frame(self) -> "DataFrame":
        """Return a pandas table with one row per candidate, best first.

        Raises:
            UserError: pandas is not installed.
        """
        return frame(
            {"id": result.id, "rank": rank, "text": one.text, "score": one.score, "tokens": len(one.token_ids)}
            | {"logp": sum(one.logps), "ref_logp": None if one.ref_logps is None else sum(one.ref_logps)}
            | {"terminal": one.terminal, "answer": one.answer}
            for result in self
            for rank, one in enumerate(result.candidates, 1)
        )

    def html(self, path: str | Path) -> Path:
        """Write the page of candidates and trees, which opens from disk, and return its file."""
        from tokenq.report.search_page import write_search_page

        write_search_page(Path(path), self, title=self.title, record=self.record)
        return Path(path)

    def _repr_html_(self) -> str:
        """Return the candidates of the first prompts as a table; notebooks ask for this by this name."""
        table: str = SearchResults(self._results[:_SHOWN]).to_frame().to_html(index=False)
        return table


def _columns(trace: TokenTrace) -> dict[str, list[Any]]:
    tokens = trace.tokens
    return {name: tokens.texts() if name == "text" else without_none(tokens.columns[name]) for name in _COLUMNS}


def frame(rows: Iterable[Mapping[str, Any]] | Mapping[str, list[Any]]) -> "DataFrame":
    """Return rows, or columns, as a pandas table.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as problem:
        raise UserError("A table needs pandas, which is missing.", "pip install pandas") from problem
    return pandas.DataFrame(rows if isinstance(rows, Mapping) else list(rows))


def _in_notebook() -> bool:
    """Return whether this is the kernel of a notebook, which IPython's shell in a terminal is not."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()  # None outside of IPython
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
