"""Claims about optimism: where a loss with a term of calibration has its minimum, found without its gradient."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logsumexp
from scipy.stats import linregress
from torch import Tensor

from tokenq.core.losses import find_loss
from tokenq.verify.claim import SMALL, Case, Claim, excess, largest
from tokenq.verify.learning import all_pairs
from tokenq.verify.online import distance, own_pairs
from tokenq.worlds.soft_q import bradley_terry, response_logps, token_logps
from tokenq.worlds.tabular import TabularLM, minimise, summed_pairs

_ALPHA = 1e-3

ROUNDS = 2
"""Rounds of the claim about rounds."""


def optimistic(
    case: Case,
    loss: str,
    alpha: float,
    weighted: tuple[Tensor, Tensor],
    calibration: Tensor,
    start: Tensor | None = None,
) -> Tensor:
    """Return the log π that a loss with a term of calibration finds, the reference fixed.

    Args:
        case: the case.
        loss: its name.
        alpha: weight of the term.
        weighted: pairs and how much each counts.
        calibration: [N] π_cal of every response.
        start: where to begin; at the reference when None.
    """
    world, sequences, (pairs, weights) = case.world, case.sequences, weighted
    function = find_loss(loss, {"beta": world.beta, "alpha": alpha}).function
    reference = token_logps(sequences, world.reference_logps)
    stored = summed_pairs(reference, pairs)

    def value(logps: Tensor) -> Tensor:
        policy = token_logps(sequences, logps)
        ratios = policy.sums() - reference.sums()
        expected = torch.stack([(calibration * ratios)[rows].sum() for rows in case.rows])
        return (function(summed_pairs(policy, pairs), stored, expected[sequences.prompts[pairs[:, 0]]]) * weights).sum()

    return minimise(TabularLM(world, start), value)


def reference_chances(case: Case) -> Tensor:
    """Return [N] π_ref of every response: what VPO and XPO calibrate on."""
    return response_logps(case.sequences, case.world.reference_logps).exp()


def likeliest(case: Case) -> Tensor:
    """Return [N] 1 for the likeliest response to each prompt: what SELM calibrates on when it begins."""
    found, chances = torch.zeros(len(case.sequences), dtype=torch.float64), reference_chances(case)
    for rows in case.rows:
        found[rows[chances[rows].argmax()]] = 1.0
    return found


def optimism_stops(case: Case) -> float:
    """(wins that π concedes) − α_p (π − π_cal) of every response, at the minimiser of optimistic DPO.

    With r̂ = β log π/π_ref, w(y, y') the weight of a pair in either order and α_p that of the term in all pairs of the
    prompt: Σ_y' w(y, y') (σ(r̂(y) − r̂(y')) − p(y ≻ y')) = α_p (π(y) − π_cal(y)), by the Lagrangian of
    Σ_y π_ref exp(r̂/β) = 1.
    """
    pairs, weights = all_pairs(case, case.returns)
    logps = optimistic(case, "vpo_online", _ALPHA, (pairs, weights), reference_chances(case))
    implicit = case.world.beta * (
        response_logps(case.sequences, logps) - response_logps(case.sequences, case.world.reference_logps)
    )
    chosen, rejected = pairs.unbind(1)
    lost = weights * torch.sigmoid(implicit[rejected] - implicit[chosen])  # what the loss pulls at each pair
    pull = torch.zeros_like(implicit).index_add(0, rejected, lost).index_add(0, chosen, -lost)
    gap = response_logps(case.sequences, logps).exp() - reference_chances(case)
    shares = torch.stack([weights[case.sequences.prompts[chosen] == prompt].sum() for prompt in case.prompts()])
    return largest(pull - _ALPHA * shares[case.sequences.prompts] * gap)


class _Objective(NamedTuple):
    """Optimistic DPO on all pairs of a prompt's n responses, of one number a response.

    With log π = log softmax(g + log π_ref) it is Σ_ij p_ij log(1 + exp(β (g_j − g_i))) + α β n (n − 1)/2 · (E_cal[g] −
    log Σ π_ref exp(g)). Its gradient and its curvature are written down here: nothing that trains computes them.
    """

    wins: NDArray[np.float64]
    base: NDArray[np.float64]
    cal: NDArray[np.float64]
    beta: float

    @property
    def weight(self) -> float:
        return _ALPHA * self.beta * len(self.base) * (len(self.base) - 1) / 2

    def value(self, g: NDArray[np.float64]) -> float:
        lost = (self.wins * np.logaddexp(0.0, self.beta * (g[None] - g[:, None]))).sum()
        return float(lost + self.weight * (self.cal @ g - logsumexp(g + self.base)))

    def slope(self, g: NDArray[np.float64]) -> Any:
        pull = self.beta * self.wins * expit(self.beta * (g[None] - g[:, None]))
        return pull.sum(0) - pull.sum(1) + self.weight * (self.cal - np.exp(log_softmax(g + self.base)))

    def curvature(self, g: NDArray[np.float64]) -> Any:
        odds, policy = expit(self.beta * (g[None] - g[:, None])), np.exp(log_softmax(g + self.base))
        bend = self.beta**2 * (self.wins + self.wins.T) * odds * odds.T
        return np.diag(bend.sum(1)) - bend - self.weight * (np.diag(policy) - np.outer(policy, policy))


def _found_otherwise(case: Case, calibration: Tensor) -> Tensor:
    """Return [N] π of the minimiser of optimistic DPO on all pairs, by Newton steps."""
    found, base = torch.empty(len(case.sequences), dtype=torch.float64), reference_chances(case).log()
    for rows in case.rows:
        wins = bradley_terry(case.returns[rows]).fill_diagonal_(0.0)
        asked = _Objective(wins.numpy(), base[rows].numpy(), calibration[rows].numpy(), case.world.beta)
        methods = {"jac": asked.slope, "hess": asked.curvature, "method": "trust-exact", "options": {"gtol": 1e-10}}
        best = minimize(asked.value, np.zeros(len(rows)), **methods)
        found[rows] = torch.from_numpy(np.exp(log_softmax(best.x + asked.base)))
    return found


def _gap_to_exact(case: Case, loss: str, calibration: Tensor) -> float:
    logps = optimistic(case, loss, _ALPHA, all_pairs(case, case.returns), calibration)
    gap = (response_logps(case.sequences, logps).exp() - _found_otherwise(case, calibration)).abs()
    return largest(torch.stack([gap[rows].sum() / 2 for rows in case.rows]))


def vpo_finds_its_minimum(case: Case) -> float:
    """Total variation of what VPO finds, calibrated on the reference, and the minimiser by Newton steps."""
    return _gap_to_exact(case, "vpo_online", reference_chances(case))


def selm_finds_its_minimum(case: Case) -> float:
    """The same of SELM, calibrated on the likeliest response."""
    return _gap_to_exact(case, "selm", likeliest(case))


def optimism_vanishes(case: Case) -> float:
    """|slope − 1| of log total variation from π* on log α, of VPO and of SELM: the distance falls as α does."""
    gaps, alphas = [], (1e-4, 1e-5, 1e-6)
    for loss, calibration in (("vpo_online", reference_chances(case)), ("selm", likeliest(case))):
        weighted, start = all_pairs(case, case.returns), case.optimum.logps
        far = [distance(case, optimistic(case, loss, alpha, weighted, calibration, start), start) for alpha in alphas]
        gaps.append(abs(float(linregress(np.log(alphas), np.log(far)).slope) - 1))
    return max(gaps)


def optimism_in_rounds(case: Case) -> float:
    """By how much E_ref[log π] is not lower than iterative DPO's after rounds of VPO, on all pairs that each wrote.

    α is small: a bad response wins few of the pairs that the policies write, and there is no minimum beyond its share.
    """
    wins, calibration = [bradley_terry(case.returns[rows]) for rows in case.rows], reference_chances(case)
    expected = []
    for alpha in (0.0, _OWN_ALPHA):
        policy, total = case.world.reference_logps, torch.zeros(())
        for _ in range(ROUNDS):
            pairs, weights = own_pairs(case, policy, wins)
            total = total + weights / ROUNDS
            policy = optimistic(case, "vpo_online", alpha, (pairs, total / total.sum()), calibration, policy)
        logps = calibration * response_logps(case.sequences, policy)
        expected.append(torch.stack([logps[rows].sum() for rows in case.rows]))
    fall = expected[1] - expected[0]
    return excess(fall) + float(fall.abs().amax() < _MOVED)


_OWN_ALPHA, _MOVED = 1e-5, 1e-6


def xpo_is_vpo(case: Case) -> float:
    """Total variation of what XPO finds with α and VPO with α/β."""
    weighted, calibration = all_pairs(case, case.returns), reference_chances(case)
    one = optimistic(case, "xpo", _ALPHA * case.world.beta, weighted, calibration)
    return distance(case, one, optimistic(case, "vpo_online", _ALPHA, weighted, calibration))


_TOPIC = "optimism"

CLAIMS = (
    Claim(_TOPIC, "VPO finds the minimum of its objective", "2405.19320", vpo_finds_its_minimum, SMALL, 1e-6),
    Claim(_TOPIC, "SELM finds its own", "2405.19332", selm_finds_its_minimum, SMALL, 1e-6),
    Claim(_TOPIC, "… which go to π* as α does to 0", "2405.19332", optimism_vanishes, SMALL, 0.1),
    Claim(_TOPIC, "rounds of VPO lower E_ref[log π]", "2405.19320", optimism_in_rounds, SMALL),
    Claim(_TOPIC, "optimism gives up wins α (π − π_cal), and no more", "2405.19320", optimism_stops, SMALL, 1e-8),
    Claim(_TOPIC, "XPO with α is VPO with α/β", "2405.21046", xpo_is_vpo, SMALL, 1e-6),
)
