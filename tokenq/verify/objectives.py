"""Claims about the optima of losses besides DPO on exact data: π*, or the optimum that they state instead."""

from collections.abc import Callable
from functools import partial
from itertools import permutations

import torch
from torch import Tensor

from tokenq.core.losses import find_loss
from tokenq.core.tensors import PairValues
from tokenq.verify.claim import SMALL, Case, Claim, broken, largest
from tokenq.verify.learning import all_pairs, divergence
from tokenq.worlds.soft_q import bradley_terry, log_ratios, plackett_luce, response_logps, token_logps
from tokenq.worlds.tabular import TabularLM, fit, minimise

FLIPS = 0.2
"""Share of labels that are flipped in the claims about noise."""

TOKEN_PRICE = 0.3
"""α of R-DPO."""


def _fitted(case: Case, scores: Tensor, loss: str, **parameters: float) -> Tensor:
    """Return the log-probs that a loss finds on exact preferences by these scores."""
    pairs, weights = all_pairs(case, scores)
    return fit(TabularLM(case.world), case.sequences, pairs, weights, loss=loss, parameters=parameters)


def _flipped(case: Case, loss: str, **parameters: float) -> Tensor:
    """Return the minimiser of a loss if one label in five is flipped."""
    pairs, weights = all_pairs(case, case.returns)
    _, opposite = all_pairs(case, -case.returns)
    noisy = (1 - FLIPS) * weights + FLIPS * opposite
    return fit(TabularLM(case.world), case.sequences, pairs, noisy, loss=loss, parameters=parameters)


def robust_on_flipped_labels(case: Case) -> float:
    """KL(π*‖π) for the minimiser of `robust` on exact preferences of which a fifth is flipped."""
    return divergence(case, _flipped(case, "robust", label_smoothing=FLIPS))


def dpo_on_flipped_labels(case: Case) -> float:
    """The same for `dpo`."""
    return divergence(case, _flipped(case, "dpo"))


def r_dpo_takes_the_price_off(case: Case) -> float:
    """KL(π*‖π) for the minimiser of `r_dpo` on preferences by r + α |y|, with π* the optimum of r."""
    longer = case.returns + TOKEN_PRICE * case.sequences.mask.sum(-1)
    return divergence(case, _fitted(case, longer, "r_dpo", alpha=TOKEN_PRICE))


def r_dpo_with_a_minus(case: Case) -> float:
    """The same where preferences go by r − α |y|: what the loss would need if its sign were the other one."""
    shorter = case.returns - TOKEN_PRICE * case.sequences.mask.sum(-1)
    return divergence(case, _fitted(case, shorter, "r_dpo", alpha=TOKEN_PRICE))


def ipo_finds_win_rates(case: Case) -> float:
    """β (d_i − d_j) − (p_i − p_j) of the minimiser of `ipo_sum`, with p_i the chance to win against any response."""
    return _gap_to_win_rates(case, _fitted(case, case.returns, "ipo_sum"), torch.ones(len(case.sequences)))


def ipo_per_token_finds_win_rates(case: Case) -> float:
    """The same for `ipo`, whose d is divided by the length."""
    lengths = case.sequences.mask.sum(-1)
    return _gap_to_win_rates(case, _fitted(case, case.returns, "ipo"), lengths)


def _gap_to_win_rates(case: Case, logps: Tensor, lengths: Tensor) -> float:
    ratios = token_logps(case.sequences, logps).sums() - case.reference.sums()
    gap = case.world.beta * ratios / lengths
    for rows in case.rows:
        wins = bradley_terry(case.returns[rows])
        gap[rows] -= (wins.sum(1) - 0.5) / len(rows)  # against itself it wins half of the time
    return _spread(case, gap)


def _spread(case: Case, values: Tensor) -> float:
    """Return how far values are from being one number per prompt."""
    rows = [case.sequences.of_prompt(prompt) for prompt in case.prompts()]
    return largest(*(values[some] - values[some].mean() for some in rows))


def rewards_per_token(case: Case) -> float:
    """β d/|y| − R of the minimiser of `sigmoid_norm`, which must be one number per prompt."""
    ratios = token_logps(case.sequences, _fitted(case, case.returns, "sigmoid_norm")).sums() - case.reference.sums()
    return _spread(case, case.world.beta * ratios / case.sequences.mask.sum(-1) - case.returns)


def f_divergence_optimum(case: Case, loss: str, slope: Callable[[Tensor], Tensor]) -> float:
    """β f'(π/π_ref) − R of the minimiser of an f-DPO loss, which must be one number per prompt."""
    logps = _fitted(case, case.returns, loss)
    ratios = response_logps(case.sequences, logps) - response_logps(case.sequences, case.world.reference_logps)
    return _spread(case, case.world.beta * slope(ratios.exp()) - case.returns)


def forward_kl_optimum(case: Case) -> float:
    """β f'(u) − R for `fdpo_forward_kl`, f'(u) = −1/u."""
    return f_divergence_optimum(case, "fdpo_forward_kl", lambda u: -1 / u)


def js_optimum(case: Case) -> float:
    """β f'(u) − R for `fdpo_js`, f'(u) = log(2u/(1 + u))."""
    return f_divergence_optimum(case, "fdpo_js", lambda u: (2 * u / (1 + u)).log())


def alpha_optimum(case: Case) -> float:
    """β f'(u) − R for `fdpo_alpha`, f'(u) = 2 (1 − u^−½)."""
    return f_divergence_optimum(case, "fdpo_alpha", lambda u: 2 * (1 - u.rsqrt()))


def rankings_find_the_optimum(case: Case) -> float:
    """KL(π*‖π) for the minimiser of `plackett_luce` on the exact distribution of rankings of three responses."""
    order = torch.tensor(list(permutations(range(3))))
    triples, chances = [], []
    for rows in case.rows:
        ranked = rows[torch.combinations(torch.arange(len(rows)), 3)][:, order].reshape(-1, 3)
        triples.append(ranked)
        chances.append(torch.stack([plackett_luce(scores) for scores in case.returns[ranked]]).exp())
    rankings, weights = torch.cat(triples), torch.cat(chances)
    loss = find_loss("plackett_luce", {"beta": case.world.beta}).function

    def value(logps: Tensor) -> Tensor:
        return (loss(token_logps(case.sequences, logps), case.reference, rankings) * weights).sum() / weights.sum()

    return divergence(case, minimise(TabularLM(case.world), value))


def labels_find_the_optimum(case: Case) -> float:
    """KL(π*‖π) for the minimiser of `ce` on single responses that are right with probability σ(R − V*(s_1))."""
    return divergence(case, _from_labels(case, case.returns - case.start_values))


def labels_without_value(case: Case) -> float:
    """The same where they are right with probability σ(R)."""
    return divergence(case, _from_labels(case, case.returns))


def _from_labels(case: Case, scores: Tensor) -> Tensor:
    loss = find_loss("ce", {"beta": case.world.beta}).function
    right = torch.ones(len(scores), dtype=torch.bool)

    def value(logps: Tensor) -> Tensor:
        policy = token_logps(case.sequences, logps)
        good, bad = loss(policy, case.reference, right), loss(policy, case.reference, ~right)
        return (torch.sigmoid(scores) * good + torch.sigmoid(-scores) * bad).mean()

    return minimise(TabularLM(case.world), value)


def tdpo_finds_the_optimum(case: Case) -> float:
    """KL(π*‖π) for the minimiser of `tdpo1` on preferences by β (log π*/π_ref + KL(π_ref‖π*)) along responses."""
    world, sequences = case.world, case.sequences

    def divergences(logps: Tensor) -> Tensor:
        here = -(world.reference_logps.exp() * log_ratios(logps, world.reference_logps)).sum(-1)
        return here[sequences.states] * sequences.mask

    regret = case.returns - case.start_values + world.beta * divergences(case.optimum.logps).sum(-1)
    pairs, weights = all_pairs(case, regret)
    loss = find_loss("tdpo1", {"beta": world.beta}).function
    reference = case.reference.pairs(pairs)

    def value(logps: Tensor) -> Tensor:
        along = divergences(logps)
        beside = PairValues(along[pairs[:, 0]], along[pairs[:, 1]])
        return (loss(token_logps(sequences, logps).pairs(pairs), reference, beside) * weights).sum()

    return divergence(case, minimise(TabularLM(world), value))


def calibrated_value(case: Case) -> float:
    """V*(s_1) − (E_cal[R] − β E_cal[log π*/π_ref]) for π_cal = π_ref: what VPO puts for the value."""
    chances = response_logps(case.sequences, case.world.reference_logps).exp()
    gaps = []
    for rows in case.rows:
        expected = (chances * (case.returns - case.implicit.sum(-1)))[rows].sum()
        gaps.append(case.start_values[rows[0]] - expected)
    return largest(torch.stack(gaps))


def optimism(case: Case) -> float:
    """By how much E_ref[log π/π_ref] is not lower for `vpo_online` (π_cal = π_ref) than for DPO."""
    gap = _calibration_of(case, "vpo_online") - _calibration_of(case, "dpo")
    return float(gap.amax().clamp(min=0)) + float(gap.abs().amax() < _MOVED)


def pessimism(case: Case) -> float:
    """By how much it is not higher for `vpo_offline`."""
    gap = _calibration_of(case, "dpo") - _calibration_of(case, "vpo_offline")
    return float(gap.amax().clamp(min=0)) + float(gap.abs().amax() < _MOVED)


_ALPHA = 1e-3
"""Weight of the value. Online, a larger one outweighs the pairs that a likely response wins: there is no optimum."""

_MOVED = 1e-3


def _calibration_of(case: Case, name: str) -> Tensor:
    """Return E_ref[log π/π_ref] of each prompt for what a loss finds with the reference's responses to calibrate on."""
    pairs, weights = all_pairs(case, case.returns)
    row = find_loss(name, {"beta": case.world.beta} | ({} if name == "dpo" else {"alpha": _ALPHA}))
    reference = case.reference.pairs(pairs)
    chances = response_logps(case.sequences, case.world.reference_logps).exp()

    def expected(logps: Tensor) -> Tensor:
        ratios = token_logps(case.sequences, logps).sums() - case.reference.sums()
        return torch.stack([(chances * ratios)[rows].sum() for rows in case.rows])

    def value(logps: Tensor) -> Tensor:
        calibration = expected(logps)[case.sequences.prompts[pairs[:, 0]]]
        inputs = [] if name == "dpo" else [calibration]
        return (row.function(token_logps(case.sequences, logps).pairs(pairs), reference, *inputs) * weights).sum()

    return expected(minimise(TabularLM(case.world), value))


_LOSSES = "losses"
_holds = partial(Claim, _LOSSES)

CLAIMS = (
    _holds(
        "robust DPO converges to π* where a fifth of the labels is flipped",
        "2403.00409",
        robust_on_flipped_labels,
        SMALL,
        1e-8,
    ),
    broken(_LOSSES, "… and so does DPO", "2403.00409", dpo_on_flipped_labels, SMALL),
    _holds("R-DPO takes α |y| off the reward", "2403.19159", r_dpo_takes_the_price_off, SMALL, 1e-8),
    broken(_LOSSES, "… and so it does with a minus", "2403.19159", r_dpo_with_a_minus, SMALL),
    _holds("IPO finds win rates instead of rewards", "2310.12036 Eq. 10", ipo_finds_win_rates, SMALL, 1e-5),
    _holds("… of log-ratios per token, where these are averaged", "TRL", ipo_per_token_finds_win_rates, SMALL, 1e-5),
    _holds("length-normalised DPO: β d/|y| = R + const", "2411.15124", rewards_per_token, SMALL, 1e-5),
    _holds("f-DPO, forward KL: β f'(π/π_ref) = R + const", "2309.16240", forward_kl_optimum, SMALL, 1e-4),
    _holds("f-DPO, Jensen-Shannon: the same", "2309.16240", js_optimum, SMALL, 1e-4),
    _holds("f-DPO, α = ½: the same", "2309.16240", alpha_optimum, SMALL, 1e-4),
    _holds("on exact rankings Plackett-Luce converges to π*", "2305.18290 A.3", rankings_find_the_optimum, SMALL, 1e-8),
    _holds("cross-entropy on labels σ(R − V*) converges to π*", "2412.01981", labels_find_the_optimum, SMALL, 1e-8),
    broken(_LOSSES, "… and on labels σ(R)", "2412.01981", labels_without_value, SMALL),
    _holds("TDPO1 converges to π* on its own preference model", "2404.11999", tdpo_finds_the_optimum, SMALL, 1e-8),
    _holds("V*(s_1) = E_cal[R] − β E_cal[log π*/π_ref]", "2405.19320", calibrated_value),
    _holds("optimistic VPO lowers E_ref[log π]", "2405.19320", optimism, SMALL),
    _holds("pessimistic VPO raises it", "2405.19320", pessimism, SMALL),
)
