"""One trace in a notebook, in a terminal, and as a table: what `session.score(prompt, response)` shows of itself.

IPython and pandas are imported when they are asked for. Nothing is computed here.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tokenq.errors import UserError
from tokenq.report.channels import NUMBERS
from tokenq.report.html import fragment
from tokenq.traces import Span, TokenTrace, Totals, TraceToken

if TYPE_CHECKING:
    from pandas import DataFrame

_COLUMNS = ("id", "text", "start", "end", "written", *NUMBERS)


@dataclass(frozen=True)
class Shown:
    """A trace that can show itself.

    Attributes:
        trace: the trace.
    """

    trace: TokenTrace

    @property
    def tokens(self) -> tuple[TraceToken, ...]:
        """The tokens of the response."""
        return self.trace.tokens

    @property
    def spans(self) -> tuple[Span, ...]:
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
        """Return a pandas table with one row a token: id, piece, place, and every number of `TraceToken`.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as problem:
            raise UserError("A table needs pandas, which is missing.", "pip install pandas") from problem
        records = [asdict(token) for token in self.trace.tokens]
        return pandas.DataFrame({name: [record[name] for record in records] for name in _COLUMNS})


def _in_notebook() -> bool:
    """Return whether this is the kernel of a notebook, which IPython's shell in a terminal is not."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()  # None outside of IPython
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
