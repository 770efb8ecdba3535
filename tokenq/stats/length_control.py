"""Win rates as they would be if both responses were equally long, since judges like long responses for their length.

This is the *minimal* form: preferences are explained by the length difference and a constant, which needs nothing but
the judgements. It does not reproduce AlpacaEval's published figures; that takes `tokenq.stats.alpaca_eval` and
AlpacaEval's own instructions. Nothing here reads files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog, minimize
from scipy.special import expit
from scipy.stats import norm

from tokenq.errors import UserError
from tokenq.stats.bootstrap import Floats
from tokenq.stats.win_rate import Preferences, checked

MINIMAL = "minimal: length and a constant"


@dataclass(frozen=True)
class LengthControlled:
    """A win rate at equal lengths.

    Attributes:
        form: which of the two models it comes from, in words.
        n: judgements used.
        unusable: judgements left out of the fit.
        win_rate: predicted mean preference at equal lengths.
        raw: mean preference as judged, on the same rows.
        standard_error: of `win_rate` by the sandwich estimate (minimal), or AlpacaEval's `lc_standard_error`: the
            spread of the predictions over √n, which says nothing of how well the weights are known. The interval does.
        interval: where the rate lies, with the confidence asked for: from the sandwich estimate on the scale of log
            odds (minimal), or by bootstrap over prompts (AlpacaEval 2).
        weights: of the features; that of "length" is positive where longer responses are preferred.
    """

    form: str
    n: int
    unusable: int
    win_rate: float
    raw: float
    standard_error: float
    interval: tuple[float, float]
    weights: Mapping[str, float]


def length_controlled(
    preferences: Preferences, lengths: Sequence[int], baseline_lengths: Sequence[int], confidence: float = 0.95
) -> LengthControlled:
    """Return the win rate at equal lengths by the minimal form.

    P(preferred) = σ(c + w · tanh((length − baseline length) / s)), by maximum likelihood without penalty, with s the
    standard deviation of the differences (which are not centred: zero stays zero). The rate is σ(c). Its error is the
    sandwich estimate, which holds for ties and for shares too.

    Args:
        preferences: share of the first response, one a prompt.
        lengths: of the first response; AlpacaEval counts characters.
        baseline_lengths: of the other one.
        confidence: coverage of the interval.

    Raises:
        UserError: lengths do not fit the preferences or never differ, or the preferences allow no finite fit.
    """
    values = checked(preferences)
    length = np.tanh(-standardised(values, lengths, baseline_lengths))
    used = ~np.isnan(values)
    features = np.column_stack([np.ones(int(used.sum())), length[used]])
    weights, covariance = _fit(features, values[used])
    constant, error = float(weights[0]), math.sqrt(covariance[0, 0])
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    rate = float(expit(constant))
    return LengthControlled(
        form=MINIMAL,
        n=int(used.sum()),
        unusable=int((~used).sum()),
        win_rate=rate,
        raw=float(values[used].mean()),
        standard_error=rate * (1 - rate) * error,
        interval=(float(expit(constant - reach)), float(expit(constant + reach))),
        weights={"constant": constant, "length": float(weights[1])},
    )


def standardised(values: Floats, lengths: Sequence[int], baseline_lengths: Sequence[int]) -> Floats:
    """Return (baseline length − length) / its standard deviation, in AlpacaEval's sign.

    Raises:
        UserError: the columns are of different lengths, no judgement is usable, or the difference never varies.
    """
    ours, theirs = np.asarray(lengths, dtype=np.float64), np.asarray(baseline_lengths, dtype=np.float64)
    if not len(values) == len(ours) == len(theirs):
        raise UserError(
            f"{len(values)} preferences, {len(ours)} lengths and {len(theirs)} baseline lengths do not line up.",
            "Give one of each a prompt.",
        )
    if np.isnan(values).all():
        raise UserError("There is no judgement to fit.", "Look at why the judge's answers could not be used.")
    difference = theirs - ours
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    if not spread > 0:
        raise UserError(
            "All pairs of responses differ by the same length, so that its effect cannot be told from the rest.",
            "Report the raw win rate.",
        )
    return difference / spread


def _fit(features: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Return the maximum likelihood weights of a logistic model, and their sandwich covariance."""
    if _separable(features, targets):
        raise UserError(
            "The preferences follow a rule of length without exception, so that the length-controlled rate has no "
            "finite fit.",
            "Judge more prompts, or report the raw win rate.",
        )

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = features @ weights
        return float((np.logaddexp(0, scores) - targets * scores).sum()), features.T @ (expit(scores) - targets)

    def curvature(weights: Floats) -> Floats:
        chance = expit(features @ weights)
        return np.asarray(features.T @ (features * (chance * (1 - chance))[:, None]))

    found = minimize(loss, np.zeros(features.shape[1]), jac=True, hess=curvature, method="trust-exact", tol=1e-9)
    weights = np.asarray(found.x)
    bread = np.linalg.inv(curvature(weights))
    scores = features * (targets - expit(features @ weights))[:, None]
    n, parameters = features.shape
    return weights, bread @ (scores.T @ scores) @ bread * n / max(1, n - parameters)


def _separable(features: Floats, targets: Floats) -> bool:
    """Return whether some direction of the weights never lowers the likelihood: the best fit is then infinite.

    A row with a share between 0 and 1 stands for both outcomes, so that it forbids every direction that moves it.
    """
    rows = np.concatenate([features[targets > 0], -features[targets < 1]])
    ahead = linprog(-rows.sum(axis=0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1))
    return bool(-ahead.fun > 1e-9)
