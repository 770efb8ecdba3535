"""Does dense credit pay? `python -m bench.credit_worlds`, tables on standard output.

Policy gradients by samples in worlds of eight tokens that are rewarded at the end: four responses a world and update,
KL to the reference in the reward, plain gradient steps on a policy whose rows are shared by place and progress. Two
things differ: the reward of tokens (the outcome alone; with that of a DPO pair, or of a process reward model that
learns beside the policy), and what is taken off it (the others of the group; a learnt critic, the pair's own values,
the true ones). Counted are the responses that were judged until the policy has 90 % of the soft optimum's gain over the
reference, which is known exactly, and until it has 90 % of the gain in reward alone, which misleads. Every arm has the
step size that is best for it in other worlds.
"""

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from bench.credit_arms import ARMS, BASE, CREDIT, LAMBDA, TOKENS, Arm, Scene
from bench.credit_kinds import BETA, KINDS, MOST, worlds
from bench.policy_worlds import Forest, Policy, Rollouts, draw_pairs, own_rows, roll_out
from tokenq.core.credit import gae, kl_estimates
from tokenq.core.losses import find_loss
from tokenq.core.qfunction import implicit_rewards
from tokenq.core.tensors import PrefixValues
from tokenq.stats.bootstrap import mean_interval
from tokenq.worlds.draws import generator
from tokenq.worlds.soft_q import evaluate, solve, token_logps
from tokenq.worlds.tabular import minimise

K = 4
"""Responses a world and update."""

RATES, TRIED = (1.0, 2.0, 4.0, 8.0), 120
"""Step sizes that are tried, and for how many updates."""


def pair_policy(kind: Forest, dense: int | str, prior: float = 1.0) -> Policy:
    """Return what dense rewards are read off: π*, or the DPO policy of so many pairs, fitted with a prior on logits.

    Pairs of equal rewards teach nothing; no pairs leave the reference.
    """
    policy, rewards = kind.policy(), kind.rewards.flatten()
    if dense == "optimum":
        best = solve(kind.world).logps
        return Policy(kind.world, own_rows(kind.world), torch.where(torch.isinf(best), 0.0, best).nan_to_num())
    if not isinstance(dense, int) or not dense:
        return policy
    rows = kind.index(draw_pairs(kind.reference, kind.rewards, dense, generator(11))).flatten(0, 1)
    rows = rows[rewards[rows[:, 0]] != rewards[rows[:, 1]]]
    before = token_logps(kind.sequences, kind.world.reference_logps).pairs(rows)
    loss = find_loss("dpo", {"beta": BETA}).function

    def value(table: Tensor) -> Tensor:
        distance = (policy.logits - kind.logits).square().sum()
        return loss(token_logps(kind.sequences, table).pairs(rows), before).sum() + prior / 2 * distance

    minimise(policy, value)
    return policy


def scene_of(kind: Forest, table: Tensor, wrote: Rollouts, dense: Tensor, critic: Tensor) -> Scene:
    """Return rollouts of a policy [S, V] as they are credited, given dense rewards [N, T] and values of rows."""
    states, mask = kind.sequences.states[wrote.rows], wrote.written.mask
    return Scene(
        rewards=kind.rewards.flatten()[wrote.rows],
        kl=BETA * kl_estimates(wrote.written.logps, wrote.reference.logps, "k1"),
        dense=dense,
        values=PrefixValues(critic[kind.rows[states]] * mask, mask),
        exact=lambda: PrefixValues(evaluate(kind.world, table)[states] * mask, mask),
        groups=wrote.groups,
        mask=mask,
    )


def learn(kind: Forest, arm: Arm, pair: Policy, updates: int, rate: float) -> Iterator[Tensor]:
    """Train a policy by an arm, and yield its [S, V] log π before each update."""
    dice, sequences = generator(5), kind.sequences
    begun = pair if arm.start == "pair" else kind.policy()
    policy, model = Policy(kind.world, begun.rows, begun.logits.detach()), kind.policy()
    critic = torch.zeros(len(kind.logits), dtype=torch.float64, requires_grad=True)
    searches = torch.optim.SGD(policy.parameters(), lr=rate), torch.optim.Adam([critic, *model.parameters()], lr=0.1)
    reinforce, value = (find_loss(name).function for name in ("reinforce", "value"))
    outcomes = find_loss("implicit_prm", {"beta": BETA}).function
    for _ in range(updates):
        table = policy.table()
        yield table.detach()
        wrote = roll_out(kind, table.detach(), K, dice)
        read = token_logps(sequences, model.table() if arm.dense == "model" else pair.table().detach())
        read = read.select(wrote.rows)
        dense = implicit_rewards(read, wrote.reference, BETA).detach()
        scene = scene_of(kind, table.detach(), wrote, dense, critic.detach())
        values = PrefixValues(critic[kind.rows[sequences.states[wrote.rows]]] * scene.mask, scene.mask)
        tokens = TOKENS[arm.tokens](scene) - scene.kl
        loss = reinforce(token_logps(sequences, table).select(wrote.rows), CREDIT[arm.credit](tokens, scene)).sum()
        loss = loss + value(wrote.written, values, gae(tokens, scene.values, lam=LAMBDA)[1]).sum()
        if arm.dense == "model":
            loss = loss + outcomes(read, wrote.reference, scene.rewards / MOST).sum()
        for one in searches:
            one.zero_grad()
        (loss / K).backward()
        for one in searches:
            one.step()


class Course(NamedTuple):
    """Shares of the soft optimum's gain over the reference, [steps, W]: in the objective, and in reward alone."""

    objective: Tensor
    reward: Tensor


EVERY = 2
"""Updates between two looks."""


def course(kind: Forest, tables: Iterable[Tensor]) -> Course:
    """Return the course of a policy, every second update."""

    def numbers(table: Tensor) -> Tensor:
        gained = (kind.responses(table).exp() * kind.rewards).sum(1)
        return torch.stack((evaluate(kind.world, table)[: kind.world.n_prompts], gained))

    least, most = numbers(kind.world.reference_logps), numbers(solve(kind.world).logps)
    found = torch.stack([numbers(table) for table in islice(tables, 0, None, EVERY)])
    return Course(*((found - least) / (most - least)).unbind(1))


def needed(shares: Tensor, share: float = 0.9) -> Tensor:
    """Return [W] judged responses until a share of the gain is had; those of all updates where it never was."""
    reached = shares >= share
    first = torch.where(reached.any(0), reached.int().argmax(0), len(shares))
    return K * EVERY * first.double().clamp(min=0.5)


def tuned(kind: Forest, arm: Arm, pair: Policy) -> float:
    """Return the rate at which an arm needs the fewest responses."""
    spent = [needed(course(kind, learn(kind, arm, pair, TRIED, rate)).objective).log().mean() for rate in RATES]
    return RATES[int(torch.stack(spent).argmin())]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=8, help="of a kind")
    parser.add_argument("--seeds", type=int, default=5, help="in each world")
    parser.add_argument("--updates", type=int, default=200)
    asked = parser.parse_args()
    began = time.process_time()
    torch.set_num_threads(1)
    for name, sort in KINDS.items():
        kind, others = worlds(sort, asked.worlds, asked.seeds), worlds(sort, 4, 2, first=1000)
        groups = [place // asked.seeds for place in range(kind.world.n_prompts)]
        sources = {arm.dense for arm in ARMS.values()}
        pairs = {dense: (pair_policy(kind, dense), pair_policy(others, dense)) for dense in sources}
        for dense in sorted(one for one in sources if isinstance(one, int) and one):
            had = course(kind, [pairs[dense][0].table().detach()]).objective
            print(f"<!-- {name}: DPO of {dense} pairs has {had.mean():.2f} of the gain in the objective -->")
        print(f"\n{name}\n\n{_HEAD}")
        base: Tensor | None = None
        for title, arm in ARMS.items():
            own, other = pairs[arm.dense]
            rate = tuned(others, arm, other)
            found = course(kind, learn(kind, arm, own, asked.updates, rate))
            spent, by_reward = needed(found.objective), needed(found.reward)
            base = spent if base is None else base
            ratio = shown(spent / base, groups) if title != BASE else ""
            last = found.objective[-10:].mean()
            reached = float((found.objective >= 0.9).any(0).double().mean())
            total = f"{float((spent + arm.cost).log().mean().exp()):.0f}"
            cells = (title, f"{rate:g}", shown(spent, groups), ratio, f"{reached:.0%}", total, shown(by_reward, groups))
            print(f"| {' | '.join(cells)} | {last:.2f} |", flush=True)
    print(f"\n{(time.process_time() - began) / 60:.1f} CPU-minutes")


_HEAD = """\
| arm | rate | judged until 90 % | / outcome | reached | with the pair's | until 90 % of the reward | gain at the end |
|---|--:|--:|--:|--:|--:|--:|--:|"""


def shown(values: Tensor, groups: Sequence[int]) -> str:
    """Return the geometric mean with its interval over worlds."""
    one = mean_interval(values.log().numpy(), groups)
    value, low, high = (math.exp(number) for number in (one.value, one.low, one.high))
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


if __name__ == "__main__":
    main()
