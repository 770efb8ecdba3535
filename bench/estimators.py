"""Bias and noise of policy gradients by what is credited, exactly: `python -m bench.estimators --worlds 32`.

Worlds of 341 responses whose rewards lie in a thin tail of the reference, groups of four, at the reference and half way
to the optimum (2404.18922 and 2502.01456 have dense rewards of a pair; 2404.12358 its values). No draw is made.
"""

import argparse
import math
from collections.abc import Callable, Mapping

import torch
from scipy.stats import t
from torch import Tensor

from tokenq.core.credit import outcome_rewards, prime_advantages, scaled
from tokenq.verify.claim import Case
from tokenq.verify.gradients import Stage, against_pair, critic, offset_of, stage, to_go, whole_response
from tokenq.worlds.draws import thin_tail
from tokenq.worlds.gradients import Credit


def _one_step(at: Stage) -> Credit:
    steps = at.case.implicit + at.tokens - outcome_rewards(at.case.returns, at.mask)
    return lambda rows, groups: steps[rows]


def _prime(at: Stage) -> Credit:
    def credit(rows: Tensor, groups: Tensor) -> Tensor:
        return prime_advantages(at.case.returns[rows], at.case.implicit[rows], groups, at.mask[rows])

    return credit


ESTIMATORS: Mapping[str, Callable[[Stage], Credit]] = {
    "whole responses, leave-one-out": whole_response,
    "what is ahead, leave-one-out": lambda at: to_go(at, at.tokens),
    "… less V* of the pair": lambda at: against_pair(at, at.case.implicit, 0.0),
    "… less V* of the pair, centred": lambda at: against_pair(at, at.case.implicit, offset_of(at)),
    "… less V of the policy (GAE, λ 1)": critic,
    "one step: β log π*/π_ref less KL": _one_step,
    "R + β log π*/π_ref of every token": lambda at: to_go(at, scaled(at.tokens, at.case.implicit, 1.0)),
    "PRIME's equation": _prime,
}


def measured(world: int, share: float) -> list[tuple[float, float, float]]:
    """Return for every estimator cosine with the gradient, |mean| / |gradient|, and noise less that of the first, /."""
    at = stage(Case.of(thin_tail(world), world), share)
    found = [at.of(make(at)) for make in ESTIMATORS.values()]
    size = at.true.norm()
    return [
        (
            float((one.mean * at.true).sum() / (one.mean.norm() * size)),
            float(one.mean.norm() / size),
            float(one.noise / found[0].noise - 1),
        )
        for one in found
    ]


def _interval(values: Tensor) -> str:
    """Return the mean over worlds with its 95 % interval (Student's t)."""
    mean, half = float(values.mean()), t.ppf(0.975, len(values) - 1) * float(values.std()) / math.sqrt(len(values))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=32)
    asked = parser.parse_args()
    print("| credit | at π_ref: cosine | size | noise, % | half way: cosine | size | noise, % |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    both = torch.tensor([[measured(world, share) for share in (0.0, 0.5)] for world in range(asked.worlds)])
    for place, name in enumerate(ESTIMATORS):
        cells = []
        for half in (0, 1):
            some = both[:, half, place]
            cells += [f"{some[:, 0].mean():.3f}", f"{some[:, 1].mean():.2f}", _interval(100 * some[:, 2])]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
