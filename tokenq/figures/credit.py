"""Does credit fall on the wrong tokens? Read-outs against several kinds of error, as one figure with its claim.

A heat map of one example convinces anybody. This figure has a few hundred examples of each kind of error, and beside
the implicit reward what costs nothing: how surprising a token is to the reference, or to the policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenq.evaluation.localisation import Localisation, ReadoutRow, localise
from tokenq.evaluation.readouts import READOUTS
from tokenq.evaluation.token_labels import labels_from_stretches
from tokenq.figures.section import HeatMap, Link, Section, Verdict
from tokenq.records.traces import TokenTrace
from tokenq.stats.bootstrap import PLAIN, Estimate, Resampling
from tokenq.stats.outcome import Cell, Chart, Curve, Table

CLAIM = (
    "DPO learns credit assignment: in a summary with errors put in, the implicit rewards of the wrong tokens stand out "
    "(arXiv 2404.12358, §5.1 and figure 1; shown on one example)."
)

SHOWN = ("implicit_reward", "centred_advantage", "policy_surprisal", "reference_surprisal", "random")
"""Read-outs in the figure, the one that the claim is about first."""


@dataclass(frozen=True)
class Errors:
    """Responses with errors of one kind.

    Attributes:
        name: the kind.
        traces: the responses, scored.
        stretches: for each the (start, end) of its errors, in characters.
        groups: for each the name of its prompt: intervals are over prompts.
    """

    name: str
    traces: Sequence[TokenTrace]
    stretches: Sequence[Sequence[tuple[int, int]]]
    groups: Sequence[object]


def locate(errors: Errors, how: Resampling = PLAIN) -> Localisation:
    """Return how well each read-out of `SHOWN` finds the errors of one kind.

    Raises:
        UserError: a stretch lies outside its response.
    """
    labels = [labels_from_stretches(*both) for both in zip(errors.traces, errors.stretches, strict=True)]
    readouts = {name: READOUTS[name] for name in SHOWN}
    return localise(errors.traces, labels, readouts, against=SHOWN[0], tops=(1,), groups=errors.groups, how=how)[0]


def credit(
    kinds: Sequence[Errors],
    heat_maps: Sequence[HeatMap] = (),
    *,
    exact: Table | None = None,
    links: Sequence[Link] = (),
    how: Resampling = PLAIN,
) -> Section:
    """Return the figure of credit: the first kind is that of the claim, errors that were put in.

    Args:
        kinds: what to look for; a kind without examples is left out.
        heat_maps: responses to look at.
        exact: the same quantities in worlds that can be solved exactly.
        links: pages with more.
        how: resamples, confidence, seed.

    Raises:
        UserError: a stretch lies outside its response.
    """
    found = {one.name: locate(one, how) for one in kinds if one.traces}
    first = next(iter(found.values()), None)
    return Section(
        name="credit",
        title="Does credit fall on the wrong tokens?",
        claim=CLAIM,
        verdict="not tested" if first is None else _verdict(first),
        reading="There was nothing to look for." if first is None else _reading(found),
        tables=[_table(name, one) for name, one in found.items()],
        charts=[_chart("AUROC of wrong tokens", "auroc", found), _chart("wrong token named first", "top_1", found)],
        heat_maps=heat_maps,
        exact=exact,
        links=links,
    )


def _row(found: Localisation, readout: str) -> ReadoutRow:
    return next(row for row in found.rows if row.readout == readout)


def _verdict(found: Localisation) -> Verdict:
    """Reproduced where the implicit reward beats chance and the reference's surprisal, in part where chance alone."""
    own = _row(found, SHOWN[0]).metrics["auroc"]
    beats = _row(found, "reference_surprisal").differences["auroc"].high < 0
    if own.low > found.chance["auroc"]:
        return "reproduced" if beats else "in part"
    return "not reproduced"


def _reading(found: Mapping[str, Localisation]) -> str:
    return "\n".join(_about(name, one) for name, one in found.items())


def _about(name: str, found: Localisation) -> str:
    own = _row(found, SHOWN[0]).metrics["auroc"]
    said = [f"{_plain(other)} {_compared(_row(found, other))}" for other in SHOWN[1:-1]]
    return f"{name.capitalize()}: AUROC {_said(own)} by implicit reward; {', '.join(said)}."


def _compared(row: ReadoutRow) -> str:
    """Return an AUROC with the word for its difference to the implicit reward's."""
    difference = row.differences["auroc"]
    word = "better" if difference.low > 0 else "worse" if difference.high < 0 else "no different"
    return f"{row.metrics['auroc'].value:.3f} ({word})"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _said(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _table(name: str, found: Localisation) -> Table:
    metrics = ("auroc", "average_precision", "top_1", "pooled_auroc")
    rows: list[list[Cell]] = [
        [_plain(row.readout), *(row.metrics[metric] for metric in metrics), row.differences["auroc"]]
        for row in found.rows
    ]
    note = (
        f"{found.examples} responses, {found.wrong_tokens} of {found.tokens} tokens wrong; means over responses, "
        "95 % intervals over prompts."
    )
    rows.append(["chance", *(found.chance[metric] for metric in metrics), None])
    head = ("read-out", "AUROC", "average precision", "top-1", "pooled AUROC", "AUROC − implicit reward")
    return Table(name, head, rows, note)


def _chart(title: str, metric: str, found: Mapping[str, Localisation]) -> Chart:
    places = list(range(len(SHOWN)))
    curves = [
        Curve(name, places, [_row(one, readout).metrics[metric] for readout in SHOWN]) for name, one in found.items()
    ]
    return Chart(title, "", metric.replace("_", "-").replace("auroc", "AUROC"), curves, labels=list(map(_plain, SHOWN)))
