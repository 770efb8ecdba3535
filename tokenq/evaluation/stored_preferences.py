"""Judgements that others have stored, each in the convention of its writer: AlpacaEval, MT-bench, arenas, this project.

Whose convention holds is told by the form of a file, by the columns that it has, and never by the range of its numbers:
1.0 is a loss in a file of AlpacaEval's and a win in one of ours. One table, `FORMS`, at the foot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tokenq.data.layouts.cells import number, shown, whole
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.stats.alpaca_eval import from_alpaca_eval
from tokenq.stats.bootstrap import Floats

StoredRow = Mapping[str, Any]


@dataclass(frozen=True)
class Preferences:
    """Stored judgements of one system against a baseline, one a prompt.

    Attributes:
        system: its name.
        shares: [N] share of the system: 1, 0, ½ for a tie, NaN where the judgement was unusable.
        lengths: of the system's responses; empty where nobody knows.
        baseline_lengths: of the baseline's.
        published: win rates that others have published of the same judgements, per cent.
        instructions: [N] number of each instruction in AlpacaEval, where the file says it; else the order is theirs.
    """

    system: str
    shares: Floats
    lengths: Sequence[int] = ()
    baseline_lengths: Sequence[int] = ()
    published: Mapping[str, float] | None = None
    instructions: Sequence[int] = ()


class Judged(NamedTuple):
    """One stored judgement.

    Attributes:
        system: whose it is.
        baseline: against what; "" where that goes without saying.
        share: of the system, None for a judgement that could not be used.
        lengths: characters of both responses, the system's first; None where nobody knows.
        instruction: its number in AlpacaEval; None where nobody says it.
    """

    system: str
    baseline: str
    share: float | None
    lengths: tuple[int, int] | None = None
    instruction: int | None = None


class Form(NamedTuple):
    """A form of files.

    Attributes:
        columns: what tells it from the others; the first form whose columns a row has is its form.
        read: row → its judgements.
    """

    columns: frozenset[str]
    read: Callable[[StoredRow], list[Judged]]


def read_preferences(rows: Sequence[StoredRow], where: str) -> list[Preferences]:
    """Return stored judgements by system, in the order in which systems appear.

    Args:
        rows: of a file; all in one form, or a row a system (`model`, and lists as AlpacaEval has them: `preference` of
            1 for the baseline to 2 for the model, `model_length` and `baseline_length`).
        where: the file, for error messages.

    Raises:
        UserError: a row is in no form that is known, or in another than the rows before.
    """
    if rows and all(isinstance(row.get("preference"), list) for row in rows):
        return [_whole_system(row, f"{where}, row {place}", place) for place, row in enumerate(rows, 1)]
    judged: list[Judged] = []
    form: Form | None = None
    for place, row in enumerate(rows, 1):
        own = next((one for one in FORMS if one.columns <= row.keys()), None)
        if own is None or (form is not None and own is not form):
            other = "is in another form than the rows before" if own else "holds no judgement"
            raise UserError(f"{where}, row {place} {other}: its columns are {', '.join(row)}.", _KNOWN)
        form = own
        try:
            judged += own.read(row)
        except (BadRow, UserError) as problem:
            said = problem.detail if isinstance(problem, BadRow) else problem.message
            raise UserError(f"{where}, row {place}: {said}.", _KNOWN) from None
    return _by_system(judged)


_KNOWN = (
    "A judgement is a row of AlpacaEval's annotations (output_1, output_2, preference of 1 to 2), of MT-bench's "
    "(model_1, model_2, g1_winner), of an arena (model_a, model_b, winner), or has a column preference: a share of 0 "
    "to 1, first, second or tie."
)


def _by_system(judged: Sequence[Judged]) -> list[Preferences]:
    baselines: dict[str, set[str]] = {}
    for one in judged:
        baselines.setdefault(one.system, set()).add(one.baseline)
    named: dict[str, list[Judged]] = {}
    for one in judged:
        apart = one.baseline and len(set().union(*baselines.values())) > 1
        named.setdefault(f"{one.system} over {one.baseline}" if apart else one.system, []).append(one)
    return [_preferences(name, own) for name, own in named.items()]


def _preferences(system: str, judged: Sequence[Judged]) -> Preferences:
    shares = np.array([np.nan if one.share is None else one.share for one in judged])
    lengths = [one.lengths for one in judged if one.lengths is not None]
    places = [one.instruction for one in judged if one.instruction is not None]
    if len(lengths) < len(judged):
        return Preferences(system, shares)
    ours, theirs = zip(*lengths, strict=True)
    return Preferences(system, shares, ours, theirs, None, places if len(places) == len(judged) else ())


def _whole_system(row: StoredRow, where: str, place: int) -> Preferences:
    try:
        shares = from_alpaca_eval([number(value, "preference") for value in row["preference"]])
    except BadRow as problem:
        raise UserError(f"{where}: {problem.detail}.", _KNOWN) from None
    lengths = row.get("model_length") or (), row.get("baseline_length") or ()
    return Preferences(str(row.get("model", f"row {place}")), shares, *lengths, row.get("published"))


def _alpaca_eval(row: StoredRow) -> list[Judged]:
    """Read AlpacaEval's annotations: 1 says output_1 (the baseline), 2 output_2; 0 and 1.5 a draw, null unusable."""
    said = row["preference"]
    share = float(from_alpaca_eval([number(said, "preference")])[0])
    place = whole(row["index"], "index") if "index" in row else None
    names = (row.get("generator_2"), row.get("generator_1"))
    system, baseline = (str(name or other) for name, other in zip(names, ("output_2", "output_1"), strict=True))
    sizes = len(str(row["output_2"] or "")), len(str(row["output_1"] or ""))
    return [Judged(system, baseline, None if np.isnan(share) else share, sizes, place)]


def _mt_bench(row: StoredRow) -> list[Judged]:
    """Read a pair of MT-bench's judgements, asked in both orders: what both say, else a tie; an error is unusable."""
    first, second = (_by_name(row[name], "model_1", "model_2", name) for name in ("g1_winner", "g2_winner"))
    share = None if first is None or second is None else first if first == second else 0.5
    return [Judged(str(row["model_1"]), str(row["model_2"]), share)]


def _arena(row: StoredRow) -> list[Judged]:
    """Read a battle: model_a, model_b, or a tie of any kind; the winner may be told by its name."""
    names = str(row["model_a"]), str(row["model_b"])
    winner = row["winner"]
    share = float(winner == names[0]) if winner in names else _by_name(winner, "model_a", "model_b", "winner")
    return [Judged(*names, share)]


def _by_name(said: Any, first: str, second: str, column: str) -> float | None:
    shares = {first: 1.0, second: 0.0, "error": None, None: None}
    if isinstance(said, str) and said.partition(" ")[0] in ("tie", "both_bad", "bothbad"):
        return 0.5
    if not isinstance(said, str | None) or said not in shares:
        raise BadRow("no verdict", f"{column!r} is {shown(said)}, not {first}, {second} or tie")
    return shares[said]


def _own(row: StoredRow) -> list[Judged]:
    said = row["preference"]
    words = {"first": 1.0, "second": 0.0, "tie": 0.5}
    share = words[said] if isinstance(said, str) and said in words else number(said, "preference")
    if share is not None and not 0 <= share <= 1:
        raise BadRow("no share", f"'preference' is {share:g}, not a share of 0 to 1")
    sizes = [whole(row.get(name), name) for name in ("length", "baseline_length")]
    both = None if None in sizes else (sizes[0] or 0, sizes[1] or 0)
    return [Judged(str(row.get("system", "system")), "", share, both)]


FORMS: tuple[Form, ...] = (
    Form(frozenset({"output_1", "output_2", "preference"}), _alpaca_eval),
    Form(frozenset({"model_1", "model_2", "g1_winner", "g2_winner"}), _mt_bench),
    Form(frozenset({"model_a", "model_b", "winner"}), _arena),
    Form(frozenset({"preference"}), _own),
)
"""Forms of stored judgements, the most particular first."""
