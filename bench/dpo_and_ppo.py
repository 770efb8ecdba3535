"""Is DPO superior to PPO? The exact part of 2404.10719: `python -m bench.dpo_and_ppo --output runs/dpo_and_ppo`.

Three actions, then worlds whose every response is on a list. From the same pairs DPO makes a policy, and Bradley-Terry
makes a reward model on which PPO then learns by samples; `solve` gives what PPO would come to in the end. Reported are
the mass on responses that are in no pair, the true reward, and regret. A policy has a row of logits for each last
token, as the reference has, so that what is learnt of one prefix is carried to others as in a network; or a row for
each state, so that it is not. Then what SFT on the chosen responses and rounds change, and true reward over updates
against a reward model of few pairs, with and without KL, as a table and a figure.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.policy_learners import RewardModel, by_bradley_terry, by_dpo, by_ppo, by_sft, optimum
from bench.policy_worlds import Forest, Policy, bigram_rows, draw_pairs, forest, own_rows
from tokenq.core.losses import find_loss
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.stats.bootstrap import mean_interval
from tokenq.worlds.draws import generator, normal
from tokenq.worlds.mdp import build, log_softmax
from tokenq.worlds.soft_q import evaluate, solve
from tokenq.worlds.tabular import TabularLM, fit, minimise

BETA, PPO_UPDATES = 0.3, 200
_EARLY, _LATE = (30, 400), (400,)


def graded(count: int, sign: float, seed: int = 0) -> Forest:
    """Return worlds of 341 responses worth 0 to 4, half a standard deviation of it log π_ref, which is a bigram's."""
    dice = generator(seed)
    tree = build(vocab_size=5, horizon=4, n_prompts=count, beta=BETA)

    def rewards(reference: Tensor) -> Tensor:
        usual = (reference - reference.mean(1, keepdim=True)) / reference.std(1, keepdim=True)
        scores = normal(tuple(reference.shape), dice) + sign * 0.5 * usual
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        return 4 * (scores - low) / (high - low)

    return forest(tree, bigram_rows(tree), rewards, dice)


def three_actions(start: Sequence[float], worth: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return π of three actions by DPO, by a reward's closed form, and by its gradient: y1 beats y2 in 3 of 4 pairs.

    π_ref is (½, ½, 0), and 10⁻⁶ for y3 where the gradient is followed, which needs a finite KL; β = 1. The reward is
    what Bradley-Terry makes of the pairs, and anything at all for y3.

    Args:
        start: π where DPO and the gradient begin.
        worth: the reward of y3.
    """
    tree = build(vocab_size=3, horizon=1, beta=1.0)

    def only(chances: Sequence[float]) -> Tensor:
        table = tree.reference_logps.clone()
        table[0] = torch.tensor(chances, dtype=torch.float64).log()
        return table

    rewards = torch.zeros_like(tree.rewards)
    rewards[0, :] = torch.tensor([math.log(3) / 2, -math.log(3) / 2, worth], dtype=torch.float64)
    world = replace(tree, reference_logps=only((0.5, 0.5, 0.0)), rewards=rewards)
    shares = torch.tensor([0.75, 0.25], dtype=torch.float64)
    by_pairs = fit(TabularLM(world, only(start)), world.sequences(), torch.tensor([[0, 1], [1, 0]]), shares)
    leaky = replace(world, reference_logps=only((0.5 - 5e-7, 0.5 - 5e-7, 1e-6)))
    by_gradient = minimise(TabularLM(leaky, only(start)), lambda table: -evaluate(leaky, table)[0])
    return by_pairs[0].exp(), solve(world).logps[0].exp(), by_gradient[0].exp()


def certain(chances: Sequence[float], beta: float) -> float:
    """Return DPO's loss of one pair, y1 over y2, at π of three actions; the same π_ref."""
    logps, reference = torch.tensor(chances, dtype=torch.float64).log(), torch.full((3,), 0.5).double().log()

    def sides(values: Tensor) -> PairLogps:
        return PairLogps(*(TokenLogps(one.reshape(1, 1), torch.ones(1, 1, dtype=torch.bool)) for one in values[:2]))

    return float(find_loss("dpo", {"beta": beta}).function(sides(logps), sides(reference)))


class Learnt(NamedTuple):
    """A policy, [S, V], and the pairs that were labelled for it, [W, P, 2]."""

    table: Tensor
    pairs: Tensor


def from_pairs(kind: Forest, pairs: Tensor, beta: float, updates: Sequence[int]) -> dict[str, Learnt]:
    """Return the policies that DPO, and PPO on reward models, make of the same pairs."""
    found, most = {"π_ref": Learnt(kind.world.reference_logps, pairs)}, max(updates)

    def after(name: str, model: Policy, steps: Iterator[None]) -> None:
        for number, _ in enumerate(steps, 1):
            if number in updates:
                found[f"{name}, {number}"] = Learnt(model.table().detach(), pairs)

    policy, reference = kind.policy(), kind.world.reference_logps
    after("DPO", policy, by_dpo(policy, kind, pairs, most, beta, reference))
    policy = Policy(kind.world, own_rows(kind.world), kind.logits[kind.rows])
    after("DPO of a tabular policy", policy, by_dpo(policy, kind, pairs, most, beta, reference))
    for name, rows in (("tabular", None), ("bigram", kind.rows)):
        model = RewardModel(kind, rows)
        for number, _ in enumerate(by_bradley_terry(model, kind, pairs, most), 1):
            if number in updates:
                rewards = model().detach()
                found[f"optimum, {name} reward, {number}"] = Learnt(optimum(kind, rewards, beta), pairs)
                policy = kind.policy()
                deque(by_ppo(policy, kind, rewards, PPO_UPDATES, beta), 0)
                found[f"PPO, {name} reward, {number}"] = Learnt(policy.table().detach(), pairs)
    return found


def remedies(kind: Forest, writer: Tensor, count: int, updates: int) -> dict[str, Learnt]:
    """Return DPO on pairs of a writer [S, V], and the same after SFT on the chosen, in rounds, and with both.

    A round has a quarter of the labels and of the updates, learns from all pairs so far, and is written by the policy.
    """
    found = {}
    for name, imitation, rounds in (("DPO", 0, 1), ("SFT, DPO", 100, 1), ("rounds", 0, 4), ("SFT, rounds", 100, 4)):
        policy, dice = kind.policy(), generator(1)
        pairs = torch.empty(kind.world.n_prompts, 0, 2, dtype=torch.long)
        table, reference = writer, kind.world.reference_logps
        for number in range(rounds):
            more = draw_pairs(kind.responses(table), kind.rewards, count // rounds, dice)
            pairs = torch.cat((pairs, more), 1)
            if number == 0 and imitation:
                deque(by_sft(policy, kind, pairs, imitation), 0)
                reference = policy.table().detach()
            deque(by_dpo(policy, kind, pairs, updates // rounds, BETA, reference), 0)
            table = policy.table().detach()
        found[name] = Learnt(table, pairs)
    return found


def course(kind: Forest, rewards: Tensor, beta: float, updates: int) -> dict[str, Tensor]:
    """Return [updates + 1, W] true reward, modelled reward and regret, before and after each update of PPO."""
    policy, found = kind.policy(), []
    for _ in chain((None,), by_ppo(policy, kind, rewards, updates, beta)):
        table = policy.table().detach()
        chances = kind.responses(table).exp()
        sums = [(chances * values).sum(1) for values in (kind.rewards, rewards)]
        found.append(torch.stack((*sums, kind.regret(table))))
    return dict(zip(("true", "model", "regret"), torch.stack(found, 1), strict=True))


def outside(kind: Forest, learnt: Learnt) -> Tensor:
    """Return [W] the mass of a policy on responses that are in no pair."""
    chances = kind.responses(learnt.table).exp()
    return chances.scatter(1, learnt.pairs.flatten(1), 0.0).sum(1)


def compared(kind: Forest, found: Mapping[str, Learnt], base: str) -> None:
    """Print what each policy came to, and its differences to one of them."""
    print("| policy | mass outside | − that of " + f"{base} | π_ref there | true reward | − {base} | regret | KL |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")

    def numbers(learnt: Learnt) -> tuple[Tensor, ...]:
        logps = kind.responses(learnt.table)
        chances = logps.exp()
        reward = (chances * kind.rewards).sum(1)
        kl = (chances * (logps - kind.reference)).sum(1)
        return outside(kind, learnt), reward, kind.regret(learnt.table), kl

    others = numbers(found[base])
    for name, learnt in found.items():
        mass, reward, regret, kl = numbers(learnt)
        usual = outside(kind, Learnt(kind.world.reference_logps, learnt.pairs))
        gaps = ["" if name == base else shown(a - b) for a, b in zip((mass, reward), others, strict=False)]
        cells = [shown(mass), gaps[0], f"{usual.mean():.3f}", shown(reward), gaps[1], shown(regret), f"{kl.mean():.2f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def shown(values: Tensor) -> str:
    """Return the mean over worlds with its interval."""
    one = mean_interval(values.numpy())
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def hacking(kind: Forest, counts: Sequence[int], betas: Sequence[float], path: Path) -> None:
    """Print and draw true and modelled reward over updates of PPO on reward models of few pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, len(counts))
    print("| pairs | β | modelled | true: start | best | at update | end | fall in each world | regret then | end |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for count, panel in zip(counts, axes, strict=True):
        model = RewardModel(kind, kind.rows)
        pairs = draw_pairs(kind.reference, kind.rewards, count, generator(1))
        deque(by_bradley_terry(model, kind, pairs, 30), 0)
        for place, beta in enumerate(betas):
            one = course(kind, model().detach(), beta, PPO_UPDATES)
            true = one["true"]
            best = int(true.mean(1).argmax())
            cells = [f"{one['model'][-1].mean():.2f}", f"{true[0].mean():.2f}", f"{true[best].mean():.2f}", f"{best}"]
            cells += [f"{true[-1].mean():.2f}", shown(true[best] - true[-1])]
            cells += [shown(one["regret"][best]), shown(one["regret"][-1])]
            print(f"| {count} | {beta:g} | {' | '.join(cells)} |", flush=True)
            for name, line in (("true", "-"), ("model", ":")):
                panel.plot((one[name] - one[name][0]).mean(1), line, color=f"C{place}", label=f"{name}, β {beta:g}")
        panel.set(title=f"reward model of {count} pairs", xlabel="updates of PPO")
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("reward above that of π_ref")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder for the figure")
    parser.add_argument("--worlds", type=int, default=32, help="of a kind")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    torch.set_num_threads(1)
    print(
        "| π to begin with | reward of y3 | π by DPO | best for the reward | by its gradient |\n|---|--:|--:|--:|--:|"
    )
    for start, worth in (((0.495, 0.495, 0.01), -5.0), ((0.05, 0.05, 0.9), 0.0), ((0.005, 0.005, 0.99), 5.0)):
        rows = [torch.tensor(start), torch.tensor(worth), *three_actions(start, worth)]
        print("| " + " | ".join(" ".join(f"{x:.4g}" for x in row.flatten().tolist()) for row in rows) + " |")
    for chances in ((0.1, 1e-2, 0.89), (0.1, 1e-4, 0.8999), (0.1, 1e-6, 0.899999)):
        print(f"<!-- one certain pair, π = {chances}: DPO's loss is {certain(chances, 1.0):.2g} -->")
    kind = graded(asked.worlds, 1.0)
    for count, beta, updates in (
        (16, 0.3, _EARLY),
        (64, 0.3, _EARLY),
        (256, 0.3, _EARLY),
        (64, 0.1, _LATE),
        (64, 1.0, _LATE),
    ):
        print(f"\n{count} pairs of π_ref, β {beta:g}\n")
        pairs = draw_pairs(kind.reference, kind.rewards, count, generator(1))
        compared(kind, from_pairs(kind, pairs, beta, updates), f"DPO, {_LATE[0]}")
    other = log_softmax(normal(tuple(kind.logits.shape), generator(2))[kind.rows], kind.world)
    for name, writer, updates in (("π_ref", None, 100), ("another writer", other, 100), ("another writer", other, 400)):
        print(f"\n64 pairs, the first of {name}, {updates} updates\n")
        compared(kind, remedies(kind, kind.world.reference_logps if writer is None else writer, 64, updates), "DPO")
    print("\nPPO on a bigram reward of few pairs\n")
    hacking(kind, (16, 64, 256), (0.0, 0.3, 1.0), asked.output / "dpo_and_ppo.png")
    print(f"\n{(time.process_time() - began) / 60:.1f} CPU-minutes")


if __name__ == "__main__":
    main()
