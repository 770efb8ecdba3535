"""Optimism in exact worlds: `python -m bench.optimism_worlds`, a table on standard output.

Rounds of writing, noisy Bradley-Terry labels and DPO on all pairs so far, against the fixed first reference, in worlds
whose every response is on a list, so that regret is exact. Arms differ in who writes the two responses of a pair and in
the term of optimism; all have the same number of labels, and are fitted by L-BFGS to the minimum of their own loss plus
a prior on logits around the reference. All worlds of a kind are computed side by side.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.optimism_kinds import Kind, graded, needle
from tokenq.core.losses import find_loss
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.stats.bootstrap import mean_interval
from tokenq.worlds.draws import generator
from tokenq.worlds.soft_q import evaluate, solve

Who = Literal["policy", "reference", "greedy"]


class Arm(NamedTuple):
    """What is compared.

    Attributes:
        writers: of the first and the second response of a pair.
        loss: a key of `LOSSES` for pairs.
        alpha: weight of the term of optimism.
        calibration: who wrote the response that a pair is calibrated on: one of the pair, or one beside it.
    """

    writers: tuple[Who, Who]
    loss: str = "dpo"
    alpha: float = 0.0
    calibration: Literal["none", "first", "second", "reference"] = "none"


ALPHAS = (1e-3, 1e-2, 1e-1)


def arms(alphas: Sequence[float]) -> dict[str, Arm]:
    """Return every arm by its name. SELM writes the policy's likeliest response and a draw."""
    found = {
        "offline": Arm(("reference", "reference")),
        "greedy": Arm(("policy", "policy")),
        "policy against reference": Arm(("policy", "reference")),
    }
    found |= {f"SELM, α {alpha:g}": Arm(("greedy", "policy"), "selm", alpha, "first") for alpha in (0.0, *alphas)}
    found |= {f"VPO, α {alpha:g}": Arm(("policy", "policy"), "vpo_online", alpha, "reference") for alpha in alphas}
    return found | {f"XPO, α {alpha:g}": Arm(("policy", "reference"), "xpo", alpha, "second") for alpha in alphas}


class Policies(NamedTuple):
    """A policy in each world of a kind, as logits of all its states.

    Attributes:
        kind: of worlds.
        logits: [W, S, V], those of the reference to begin with.
    """

    kind: Kind
    logits: Tensor

    def tables(self) -> Tensor:
        """Return [W, S, V] log π of tokens."""
        choice = self.kind.worlds[0].choice
        return torch.where(choice[:, None], self.logits.log_softmax(-1), -torch.inf)

    def responses(self) -> Tensor:
        """Return [W, N] log π of responses."""
        rows = self.kind.sequences
        own = self.logits.log_softmax(-1)[:, rows.states, rows.tokens]
        return (own * rows.valid).sum(-1)


def start(kind: Kind) -> Policies:
    """Return the references as policies."""
    tables = torch.stack([world.reference_logps for world in kind.worlds])
    return Policies(kind, torch.where(kind.worlds[0].choice[:, None], tables, 0.0))


def pairs_of(arm: Arm, policy: Tensor, kind: Kind, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return [W, P, 2] labelled pairs (chosen, rejected) of a round, and [W, P] responses to calibrate on.

    Two responses of a pair are different ones: nobody is asked about one against itself.
    """
    chances = {"policy": policy.exp(), "reference": kind.reference.exp()}
    chances["greedy"] = torch.nn.functional.one_hot(policy.argmax(-1), policy.shape[-1]).double()
    count = kind.labels
    one = chances[arm.writers[0]].multinomial(count, replacement=True, generator=dice)
    left = chances[arm.writers[1]][:, None].repeat(1, count, 1).scatter(2, one[..., None], 0.0) + 1e-300
    other = left.flatten(0, 1).multinomial(1, generator=dice).reshape(one.shape)
    rewards = kind.rewards
    odds = torch.sigmoid(rewards.gather(1, one) - rewards.gather(1, other))
    wins = torch.rand(odds.shape, generator=dice, dtype=torch.float64) < odds
    pairs = torch.stack((torch.where(wins, one, other), torch.where(wins, other, one)), -1)
    beside = chances["reference"].multinomial(count, replacement=True, generator=dice)
    return pairs, {"first": one, "second": other}.get(arm.calibration, beside)


def fitted(policies: Policies, pairs: Tensor, calibration: Tensor, arm: Arm, prior: float, steps: int) -> Policies:
    """Return the minimisers of Σ loss + prior/2 ‖logits − those of the reference‖² in each world, all together."""
    kind = policies.kind
    anchor, logits = start(kind).logits, policies.logits.clone().requires_grad_()
    reference = kind.reference
    options = {"beta": kind.worlds[0].beta} | ({} if arm.loss == "dpo" else {"alpha": arm.alpha})
    loss = find_loss(arm.loss, options).function
    search = torch.optim.LBFGS(
        [logits],
        max_iter=steps,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        own = Policies(kind, logits).responses()
        sides = [_sides(logps, pairs) for logps in (own, reference)]
        inputs = [] if arm.loss == "dpo" else [(own - reference).gather(1, calibration).flatten()]
        value: Tensor = loss(*sides, *inputs).sum() + prior / 2 * (logits - anchor).square().sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch's
        return value

    search.step(closure)  # type: ignore[no-untyped-call]  # torch's
    return Policies(kind, logits.detach())


def _sides(logps: Tensor, pairs: Tensor) -> PairLogps:
    found = [logps.gather(1, pairs[..., side]).reshape(-1, 1) for side in (0, 1)]
    return PairLogps(*(TokenLogps(one, torch.ones_like(one, dtype=torch.bool)) for one in found))


class Outcome(NamedTuple):
    """What an arm came to, [W] each.

    Attributes:
        regret: V* − V^π at the end, by the world's own solver.
        refitted: the same of DPO without the term on the same pairs.
        early: regret after a quarter of the rounds.
        reward: expected.
        top: mass on the top 15 % of the range of rewards.
        distinct: responses that were labelled.
        found: whether the best response was.
    """

    regret: Tensor
    refitted: Tensor
    early: Tensor
    reward: Tensor
    top: Tensor
    distinct: Tensor
    found: Tensor


def play(kind: Kind, arm: Arm, prior: float, steps: int) -> Outcome:
    """Return what an arm comes to after all rounds."""
    policies, dice, early = start(kind), generator(7), torch.zeros(0)
    pairs = torch.empty(len(kind.worlds), 0, 2, dtype=torch.long)
    calibration = pairs[..., 0]
    for number in range(1, kind.rounds + 1):
        more, beside = pairs_of(arm, policies.responses(), kind, dice)
        pairs, calibration = torch.cat((pairs, more), 1), torch.cat((calibration, beside), 1)
        policies = fitted(policies, pairs, calibration, arm, prior, steps)
        if number == kind.rounds // 4:
            early = regret(policies)
    plain = policies if arm.loss == "dpo" else fitted(policies, pairs, calibration, Arm(arm.writers), prior, steps)
    rewards, chances = kind.rewards, policies.responses().exp()
    low, high = rewards.amin(1, keepdim=True), rewards.amax(1, keepdim=True)
    best = rewards.argmax(1, keepdim=True)
    seen = torch.zeros_like(rewards).scatter(1, pairs.flatten(1), 1.0)
    return Outcome(
        regret(policies),
        regret(plain),
        early,
        (chances * rewards).sum(1),
        (chances * (rewards >= high - 0.15 * (high - low))).sum(1),
        seen.sum(1),
        seen.gather(1, best)[:, 0],
    )


def regret(policies: Policies) -> Tensor:
    """Return [W] V* − V^π at the prompt."""
    found = []
    for world, table in zip(policies.kind.worlds, policies.tables(), strict=True):
        found.append(solve(world).values[0] - evaluate(world, table)[0])
    return torch.stack(found)


class Table(NamedTuple):
    """A table of results.

    Attributes:
        title: what it is about.
        kind: makes its worlds.
        priors: in turn.
        alphas: of the arms with optimism.
    """

    title: str
    kind: Callable[[int], Kind]
    priors: Sequence[float]
    alphas: Sequence[float] = ALPHAS


_NEEDLE = {"chance": 0.003, "worth": 4.0, "spread": 0.5**0.5, "rounds": 12}
_BOLD = (0.03, 0.1, 0.3)

TABLES = (
    Table("tail, 8 x 32 labels", lambda n: graded(-1, n, 32), (0.1, 0.001)),
    Table("bulk, 8 x 32 labels", lambda n: graded(1, n, 32), (0.1,)),
    Table("tail, 8 x 512 labels", lambda n: graded(-1, n, 512), (0.1,)),
    Table("bulk, 8 x 512 labels", lambda n: graded(1, n, 512), (0.1,)),
    Table("needle, 12 x 16 labels", lambda n: needle(3 * n, **_NEEDLE), (0.03, 0.001)),
    Table(
        "needle among equals", lambda n: needle(2 * n, **(_NEEDLE | {"spread": 0, "rounds": 24})), (0.03, 0.001), _BOLD
    ),
    Table(
        "needle of 8 that the reference writes once in 3,333 times, among equals",
        lambda n: needle(2 * n, chance=0.0003, worth=8.0, spread=0.0, rounds=24),
        (0.03, 0.001),
        _BOLD,
    ),
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=16, help="worlds of a kind; three times as many with a needle")
    parser.add_argument("--steps", type=int, default=80, help="most steps of L-BFGS in a round")
    asked = parser.parse_args()
    began = time.process_time()
    torch.set_num_threads(1)
    for table in TABLES:
        kind = table.kind(asked.worlds)
        before = f"{table.title}, {len(kind.worlds)} worlds, regret of π_ref {regret(start(kind)).mean():.2f}"
        for prior in table.priors:
            print(f"\n{before}, prior {prior:g}\n\n{_HEAD}")
            found = {name: play(kind, arm, prior, asked.steps) for name, arm in arms(table.alphas).items()}
            for name, one in found.items():
                print(_line(name, one, found["greedy"]), flush=True)
    print(f"\n{(time.process_time() - began) / 60:.1f} CPU-minutes")


_HEAD = """\
| arm | regret early | at the end | − greedy | refitted | E[R] | top 15 % | labelled | best found |
|---|--:|--:|--:|--:|--:|--:|--:|--:|"""


def _line(name: str, one: Outcome, greedy: Outcome) -> str:
    gap = mean_interval((one.regret - greedy.regret).numpy())
    shown = "" if one is greedy else f"{gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
    means = [f"{value.mean():.2f}" for value in (one.early, one.regret)]
    rest = [f"{one.refitted.mean():.2f}", f"{one.reward.mean():.2f}", f"{one.top.mean():.2f}"]
    rest += [f"{one.distinct.mean():.0f}", f"{one.found.mean():.0%}"]
    return f"| {' | '.join((name, *means, shown, *rest))} |"


if __name__ == "__main__":
    main()
