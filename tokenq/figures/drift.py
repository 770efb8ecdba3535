"""Do likelihoods fall? What training from preferences does to held-out pairs, beside what theory says it must do.

For responses drawn from the reference, E[β log π/π_ref] = −β KL(π_ref‖π) ≤ 0 (Eq. 16 of arXiv 2404.12358): the mean
implicit reward starts at 0 and falls. Where the reference was trained on the chosen responses, theirs must fall too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from tokenq.evaluation.task_preference import as_pairs
from tokenq.figures.section import Link, Section, Verdict
from tokenq.records.traces import TokenTrace
from tokenq.stats.bootstrap import PLAIN, Estimate, Floats, Resampling, difference_interval, mean_interval
from tokenq.stats.outcome import Chart, Curve, Table

CLAIM = (
    "Trained from its reference, a policy's mean implicit reward must fall, since E_ref[β log π/π_ref] = "
    "−β KL(π_ref‖π); after SFT on the chosen responses, their reward falls too, and without SFT it stays above 0 "
    "(arXiv 2404.12358, §5.4 and figure 3; shown as curves)."
)


@dataclass(frozen=True)
class Training:
    """One training from preferences, as held-out pairs see it.

    Attributes:
        name: what sets it apart.
        evals: the lines of metrics.jsonl that evaluations on these pairs wrote.
        traces: the pairs under the trained policy, both sides of each.
        drawn: whether both responses of the pairs were drawn from this training's reference.
    """

    name: str
    evals: Sequence[Mapping[str, float]]
    traces: Sequence[TokenTrace]
    drawn: bool = False


@dataclass(frozen=True)
class Drift:
    """How far the responses of held-out pairs went, in nats per response; intervals over pairs.

    Attributes:
        chosen: mean implicit reward of the chosen responses.
        rejected: of the rejected ones.
        both: of all.
        predicted: −β Σ_t KL(π_ref‖π) at the positions of all, what `both` is on average for draws from the reference.
        chosen_logp: log π − log π_ref of the chosen responses.
        rejected_logp: of the rejected ones.
        accuracy: share of pairs whose chosen response has the higher implicit reward.
    """

    chosen: Estimate
    rejected: Estimate
    both: Estimate
    predicted: Estimate
    chosen_logp: Estimate
    rejected_logp: Estimate
    accuracy: Estimate


def drift(traces: Sequence[TokenTrace], how: Resampling = PLAIN) -> Drift:
    """Return how far held-out pairs went.

    Args:
        traces: both sides of every pair, in any order.
        how: resamples, confidence, seed.

    Raises:
        UserError: a pair lacks a side, or there is none.
    """
    sides = list(zip(*((chosen, rejected) for _, chosen, rejected in as_pairs(traces)), strict=True))
    rewards = [np.array([one.totals.given("implicit_reward") for one in side]) for side in sides]
    shifts = [np.array([one.totals.given("logp") - one.totals.given("ref_logp") for one in side]) for side in sides]
    predicted = [np.array([_predicted(one) for one in side]) for side in sides]
    return Drift(
        mean_interval(rewards[0], how=how),
        mean_interval(rewards[1], how=how),
        mean_interval((rewards[0] + rewards[1]) / 2, how=how),
        mean_interval((predicted[0] + predicted[1]) / 2, how=how),
        mean_interval(shifts[0], how=how),
        mean_interval(shifts[1], how=how),
        mean_interval((rewards[0] > rewards[1]).astype(np.float64), how=how),
    )


def likelihood(
    without: Training, after_chosen: Training, *, exact: Table | None = None, links: Sequence[Link] = ()
) -> Section:
    """Return the figure of falling likelihoods: one training as it is, and one that began with SFT on chosen responses.

    Args:
        without: the training without that.
        after_chosen: the training after it, measured on the same pairs.
        exact: the same quantities in worlds that can be solved exactly.
        links: pages with more.

    Raises:
        UserError: a pair lacks a side, or the two were measured on different pairs.
    """
    found = {one.name: drift(one.traces) for one in (without, after_chosen)}
    first, second = found[without.name], found[after_chosen.name]
    more = difference_interval(_chosen_rewards(after_chosen.traces), _chosen_rewards(without.traces))
    return Section(
        name="likelihood",
        title="Do likelihoods fall, and by as much as they must?",
        claim=CLAIM,
        verdict=_verdict(first, second),
        reading=_reading(without, first, second, more),
        tables=[_table(found)],
        charts=[
            _chart("implicit reward while DPO learns", "nats per response", "eval_rewards/{}", (without, after_chosen)),
            _chart("log-probability while DPO learns", "nats per response", "eval_logps/{}", (without, after_chosen)),
        ],
        exact=exact,
        links=links,
    )


def _chosen_rewards(traces: Sequence[TokenTrace]) -> Floats:
    return np.array([chosen.totals.given("implicit_reward") for _, chosen, _ in as_pairs(traces)])


def _predicted(trace: TokenTrace) -> float:
    """Return −β Σ_t KL(π_ref‖π); positions where it is infinite count nothing."""
    divergences: list[float] = np.nan_to_num(trace.tokens.numbers("ref_kl")).tolist()
    return -trace.beta * sum(divergences)


def _verdict(without: Drift, after_chosen: Drift) -> Verdict:
    falls = without.both.high < 0 and after_chosen.both.high < 0 and after_chosen.chosen.high < 0
    if falls and without.chosen.low > 0:
        return "reproduced"
    return "in part" if falls else "not reproduced"


def _reading(training: Training, without: Drift, after_chosen: Drift, more: Estimate) -> str:
    wrote = "the reference drew both responses" if training.drawn else "others wrote the responses"
    said = (
        f"The mean implicit reward of held-out pairs goes to {_said(without.both)}; for draws from the reference it is "
        f"{_said(without.predicted)} on average.\nOf chosen ones alone it goes to {_said(without.chosen)}, and after "
        f"SFT on chosen responses to {_said(after_chosen.chosen)}: a difference of {_said(more)}.\n"
    )
    if training.drawn:
        bound = training.traces[0].beta * log(2)
        said += (
            f"At the optimum it is at most β ln 2 = {bound:.2f}: chosen draws are at most twice as likely as draws. "
        )
    if without.chosen.high < 0:
        return said + f"Chosen responses fall without that SFT too, against the paper; {wrote} here."
    if without.chosen.low > 0:
        return said + "Without that SFT their reward stays above 0, as in the paper."
    return said + "Without that SFT the sign of their reward is open."


def _said(estimate: Estimate) -> str:
    return f"{estimate.value:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"


def _table(found: Mapping[str, Drift]) -> Table:
    head = ("", *found)
    rows = {
        "implicit reward, chosen": "chosen",
        "implicit reward, rejected": "rejected",
        "implicit reward, both": "both",
        "predicted for draws from the reference: −β KL(π_ref‖π)": "predicted",
        "log π − log π_ref, chosen": "chosen_logp",
        "log π − log π_ref, rejected": "rejected_logp",
        "accuracy of implicit rewards": "accuracy",
    }
    note = (
        "Nats a response, means over held-out pairs with 95 % intervals; the prediction is measured on their positions."
    )
    return Table(
        "held-out pairs after DPO",
        head,
        [[label, *(getattr(one, name) for one in found.values())] for label, name in rows.items()],
        note,
    )


def _chart(title: str, y: str, metric: str, trainings: Sequence[Training]) -> Chart:
    curves = [
        Curve(
            f"{side}, {training.name}",
            [row["step"] for row in training.evals],
            [row[metric.format(side)] for row in training.evals],
        )
        for training in trainings
        for side in ("chosen", "rejected")
    ]
    return Chart(title, "steps", y, curves)
