"""The tables of an audit, the same in the terminal and on its page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenq.curation.audit.finding import KINDS, Fault
from tokenq.curation.audit.shortcuts import Shortcut
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Table


def tables_of(
    faults: Sequence[Fault],
    where: Sequence[str],
    numbers: Mapping[str, Any],
    shortcuts: Sequence[Shortcut],
    margins: Mapping[str, Any],
) -> Iterator[Table]:
    """Yield the tables: findings by kind, what tells chosen from rejected, what policies say.

    Args:
        faults: the findings.
        where: the place of every row.
        numbers: of the data as a whole.
        shortcuts: what tells chosen from rejected; none without enough pairs.
        margins: what policies say; empty where none was asked.
    """
    yield _kinds(faults, where, numbers)
    if shortcuts:
        yield _shortcuts(numbers, shortcuts)
    if margins:
        yield _margins(margins)


def _kinds(faults: Sequence[Fault], where: Sequence[str], numbers: Mapping[str, Any]) -> Table:
    rows = []
    for kind, meaning in KINDS.items():
        own = [fault for fault in faults if fault.kind == kind]
        if own:
            held = {row for fault in own for row in fault.rows}
            first = next((where[fault.rows[0]] for fault in own if fault.rows), "")
            rows.append((kind, meaning, len(own), len(held) or "", first))
    held_out = f", {numbers['held_out_rows']:,} of them held out" if numbers["held_out_rows"] else ""
    note = f"{numbers['rows']:,} rows{held_out}; {numbers['pairs']:,} pairs; {numbers['prompts']:,} different prompts."
    if not rows:
        rows = [("nothing", "no fault was found", 0, "", "")]
    return Table("Findings", ("kind", "what it says", "findings", "rows", "the first"), rows, note)


def _shortcuts(numbers: Mapping[str, Any], shortcuts: Sequence[Shortcut]) -> Table:
    names = {"length": "length alone", "first_token": "the first word alone", "format": "format alone"}
    rows = [
        (
            names.get(one.name, "a bag of words"),
            one.accuracy,
            ", ".join(f"{word!r} {w:+.2f}" for word, w in one.telling),
        )
        for one in shortcuts
    ]
    note = (
        "Accuracy on pairs that a logistic regression has not seen (5 folds of prompts), of "
        f"{numbers['pairs_looked_at']:,} pairs; 0.5 is chance. The chosen response is the longer one in "
        f"{numbers['chosen_longer']:.1%}. Weights above 0 speak for chosen."
    )
    return Table("What tells chosen from rejected", ("by", "accuracy", "what speaks most"), rows, note)


def _margins(margins: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, Any]] = [("margins", margins["of"]), ("pairs read", margins["pairs"])]
    if not margins["unseen"]:
        rows.append(("below 0", margins["negative"]))
        note = "These are no estimate of wrong labels: a policy that has learnt a wrong label agrees with it (--folds)."
        return Table("What a policy says of the labels", ("", "value"), rows, note)
    ends = {name: (margins[f"{name}_low"], margins[f"{name}_high"]) for name in ("negative", "wrong_labels")}
    for name, said in (("negative", "share of margins below 0"), ("wrong_labels", "share of wrong labels, estimated")):
        value = math.nan if margins[name] is None else margins[name]
        rows.append((said, Estimate(value, *ends[name], margins["pairs"])))
    rows.append(("how often the policies are right, estimated", margins["accuracy"]))
    note = (
        "A margin below 0 is a wrong label or a mistake of the policy. What parts them is where they lie: policies err "
        "where margins are small. A wide interval says that these policies have learnt too little to tell."
    )
    return Table("What policies say that never saw the pairs", ("", "value"), rows, note)
