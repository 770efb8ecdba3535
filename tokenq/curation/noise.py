"""The share of wrong labels, estimated from margins of policies that never saw the rows.

A negative margin is a wrong label or a mistake of the policy; their share alone is therefore too large. What tells the
two apart is where they lie: a policy errs where its margin is small, a label is wrong anywhere. With flips at the rate
ε, independent of the pair, and a policy that is right with probability σ(c|m|),

    P(margin m > 0 given |m|) = ε + (1 − 2ε) σ(c|m|),

the calibration curve of a two-parameter logistic model whose plateau at large |m| is 1 − ε (symmetric label noise:
Natarajan et al. 2013). ε and c are fitted by maximum likelihood, and the interval of ε is that of its profile: it is
wide, up to all of [0, ½), where the margins have no plateau, which is to say where the policies have learnt too little.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from tokenq.stats.bootstrap import Estimate, mean_interval

Floats = NDArray[np.float64]

_RATES = np.linspace(0.0, 0.495, 100)
"""Rates of flips that are tried."""

_SCALES = np.geomspace(0.02, 200.0, 140)
"""Slopes of the calibration that are tried, for margins whose root mean square is 1."""

_CELLS = 2048
"""Cells into which margins are counted; more pairs cost no more time."""


@dataclass(frozen=True)
class NoiseEstimate:
    """What margins of unseen rows say about the labels.

    Attributes:
        negative: share of margins below 0, with its interval; ties count half.
        rate: share of labels that are wrong, with its interval; NaN where all margins are alike. An interval of all of
            [0, ½] says that every rate fits them (`is_told`).
        slope: c of the calibration, per unit of margin.
        accuracy: how often the policies are right about the true preference, by that calibration.
    """

    negative: Estimate
    rate: Estimate
    slope: float
    accuracy: float

    @property
    def is_told(self) -> bool:
        """Whether the margins say anything about the rate."""
        return self.rate.low > 0 or self.rate.high < 0.5

    def wrong(self, margins: Floats) -> Floats:
        """Return the probability of each pair that its label is wrong, by Bayes' rule; NaN where nothing is told.

        Args:
            margins: in the unit of those that it was estimated from.
        """
        if not self.is_told:
            return np.full(len(margins), np.nan)
        right = _sigmoid(self.slope * margins)
        agrees, differs = (1 - self.rate.value) * right, self.rate.value * (1 - right)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(differs / (agrees + differs))


def estimate_noise(margins: Floats, confidence: float = 0.95) -> NoiseEstimate:
    """Return the share of wrong labels.

    Args:
        margins: one a pair, of policies that never saw it, above 0 where the policy agrees with the label; NaN for
            pairs without one, which are left out.
        confidence: coverage of the intervals.
    """
    known = np.asarray(margins, np.float64)
    known = known[np.isfinite(known)]
    signs = np.where(known == 0, 0.5, known < 0)
    negative = mean_interval(signs) if len(known) else Estimate(np.nan, np.nan, np.nan, 0)
    scale = float(np.sqrt(np.mean(known**2))) if len(known) else 0.0
    if len(known) < 2 or scale == 0 or np.ptp(np.abs(known)) <= 1e-12 * scale:
        unknown = Estimate(np.nan, np.nan, np.nan, len(known))
        return NoiseEstimate(negative, unknown, np.nan, np.nan)
    counts, edges = np.histogram(known / scale, _CELLS)
    centres = (edges[:-1] + edges[1:]) / 2
    held = counts > 0
    counts, centres = counts[held], centres[held]
    right = _sigmoid(_SCALES[:, None] * centres)  # [scales, cells]
    fits = np.stack([np.log(rate + (1 - 2 * rate) * right) @ counts for rate in _RATES])  # [rates, scales]
    profile = fits.max(1)
    best = int(profile.argmax())
    inside = np.flatnonzero(profile >= profile[best] - chi2.ppf(confidence, 1) / 2)
    low, high = float(_RATES[inside[0]]), float(_RATES[inside[-1]])
    high = 0.5 if inside[-1] == len(_RATES) - 1 else high
    slope = float(_SCALES[fits[best].argmax()])
    accuracy = float(np.average(_sigmoid(slope * np.abs(centres)), weights=counts))
    return NoiseEstimate(negative, Estimate(float(_RATES[best]), low, high, len(known)), slope / scale, accuracy)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -700, 700))))
