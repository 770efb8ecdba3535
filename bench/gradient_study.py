"""Policy gradients and DPO in the world of posts: `python -m bench.gradient_study --output FOLDER --seeds 0 1 2`.

All ways begin with the same policy that learnt from demonstrations, and are judged by the true reward of what they
write of posts that nothing was trained on. `ppo`: DPO learns from 8,000 labelled pairs of that policy; two reward
models come of the same pairs, the implicit reward of that DPO run and a scalar head by Bradley-Terry; DPO in rounds and
PPO learn from these, PPO with its tricks one by one (whitened advantages, large batches, a reference that follows).
`credit`: leave-one-out on the true reward, alone and with dense credit: of a DPO run of 2,000 pairs (as a baseline, as
a potential, and scaled, there at the reward scale that the rewards of tokens add and at that of the others), of PRIME,
and of the true reward token by token, by the true reward of every round. What is done already is not done again.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from scipy.stats import t

import tokenq
from bench.dro_study import shown
from bench.online_study import GOLD_RANGE, IN_ROUNDS, OFFLINE, judged, trained
from tokenq.demo.learning import NEW_TOKENS, World, learn
from tokenq.demo.settings import DemoSettings
from tokenq.files import JsonLines
from tokenq.jobs.rollout.online import online
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import difference_interval, mean_interval
from tokenq.terminal.progress import Progress

SAMPLES = 4096
"""Responses that every policy gradient learns from."""

PAIRS = 8000
"""Labelled pairs of the first part."""

LARGE, SMALL = 512, 64
"""Responses of a round, learnt from in four minibatches."""

BETA = 0.1
"""Weight of the KL penalty, in units of the labeller's temperature a nat."""

TRICKS: dict[str, dict[str, Any]] = {
    "PPO": {"responses": SMALL, "whiten_advantages": False},
    "+ whitened advantages": {"responses": SMALL, "whiten_advantages": True},
    "+ large batches": {"responses": LARGE, "whiten_advantages": True},
    "+ following reference": {
        "responses": LARGE,
        "whiten_advantages": True,
        "reference_sync_steps": 1,
        "reference_mixup_alpha": 0.001,
    },
}
"""Each with the tricks of those before it."""

WEAKER: dict[str, dict[str, Any]] = {
    "PPO, KL 0.03": {"responses": SMALL, "whiten_advantages": True, "beta": 0.03},
    "PPO without KL": {"responses": SMALL, "whiten_advantages": True, "kl": "none", "beta": None},
}
"""A weaker pull to where it began."""

BY = {"implicit": TRICKS | WEAKER, "head": {"PPO": TRICKS["PPO"]}}
"""What learns from each reward model."""

TRUE, SHARE = (f"{Path(__file__).with_name('online_study.py')}:{name}" for name in ("gold", "gold_share"))
"""The true reward as a judge, and the same between 0 and 1."""

PRIME: dict[str, Any] = {
    "loss": "rloo+implicit_prm",
    "credit": "prime",
    "judge": SHARE,
    "beta": BETA / GOLD_RANGE,
}
"""PRIME's model wants outcomes from 0 to 1: the true reward is divided by its range, and the KL penalty with it."""

GAE: dict[str, Any] = {"loss": "rloo+0.5*value", "credit": "gae"}
TOKENS: dict[str, Any] = {"token_rewards": "judge", "token_reward_form": "potential"}

CREDIT: dict[str, dict[str, Any]] = {
    "outcome": {},
    "implicit, baseline": {"credit": "implicit"},
    "implicit, potential": {"token_rewards": "implicit", "token_reward_form": "potential"},
    "implicit, scaled": {"token_rewards": "implicit", "token_reward_form": "scaled"},
    "implicit, scaled, reward scale matched": {
        "token_rewards": "implicit",
        "token_reward_form": "scaled",
        "beta": 2 * BETA,
    },
    "outcome, half the KL": {"beta": BETA / 2},
    "PRIME, weight 5": PRIME | {"token_reward_weight": 5.0},
    "PRIME, weight 0.25": PRIME | {"token_reward_weight": 0.25},
    "outcome, GAE": GAE,
    "true reward of tokens": TOKENS,
    "true reward of tokens, GAE": GAE | TOKENS,
    "true reward of tokens, discounted": TOKENS | {"credit": "returns", "gamma": 0.8, "whiten_advantages": True},
}
"""Rewards of tokens with weight 1 double the reward, as half the KL does. So does PRIME's model with weight 1/4: it
learns the logit of an outcome, which is four times its distance from 1/2 there. 5 is the published weight."""


def main() -> None:
    """Train everything and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the rounds")
    parser.add_argument("--parts", nargs="+", choices=("ppo", "credit"), default=["ppo", "credit"])
    asked = parser.parse_args()
    world = World(asked.output, DemoSettings(0), ())
    if not world.sft.exists():
        learn(world)
    for part in asked.parts:
        print({"ppo": ppo_table, "credit": credit_table}[part](world, asked.seeds), flush=True)


def offline(world: World, seed: int) -> RunDir:
    """Return DPO on labelled pairs of the policy as it begins."""
    name = f"{OFFLINE} of {world.settings.pair_posts}-{seed}"
    return trained(world, name, seed, model=str(world.sft), **IN_ROUNDS[OFFLINE])


def reward_model(world: World, seed: int) -> Path:
    """Return a reward model of the same pairs."""
    run = RunDir(world.folder / f"reward-model-{seed}")
    if not run.policy.parent.joinpath("reward_model").exists():
        tokenq.train(
            str(world.sft),
            offline(world, seed).round(1) / "pairs.jsonl",
            run.path,
            loss="bradley_terry",
            seed=seed,
            batch_size=32,
            learning_rate=1e-3,
            epochs=4,
            schedule="cosine",
            warmup_ratio=0.05,
            keep_checkpoints=0,
            device="cpu",
        )
    return run.path / "reward_model"


def gradient(world: World, name: str, seed: int, responses: int, **settings: Any) -> RunDir:
    """Return a run of a policy gradient on so many responses a round."""
    run = RunDir(world.folder / f"{name}-{seed}".replace(" ", "-").replace(",", ""))
    posts = world.settings.for_pairs()
    prompts = world.data("posts", ({"id": str(i), "prompt": post.prompt} for i, post in enumerate(posts)))
    asked: dict[str, Any] = {
        "rounds": SAMPLES // responses,
        "prompts_per_round": responses // settings.get("samples", 1),
        "max_new_tokens": NEW_TOKENS,
        "beta": BETA,
        "kl": "reward",
        "batch_size": responses // 4,
        "learning_rate": 1e-3,
        "schedule": "constant_with_warmup",
        "warmup_steps": 5,
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
        "keep_checkpoints": 0,
    }
    asked = {key: value for key, value in (asked | settings).items() if value is not None}
    if not run.policy.exists():
        with Progress(100) as progress:
            online(str(world.sft), [str(prompts)], run.path, listener=progress, resume=run.path.exists(), **asked)
    return run


def ppo_table(world: World, seeds: list[int]) -> str:
    """Return DPO and PPO side by side, by the true reward of samples."""
    world = World(world.folder, replace(world.settings, pair_posts=PAIRS), ())
    posts, found = world.settings.for_corruption(), dict[str, list[dict[str, Any]]]()
    found["SFT"] = [judged(world, "sft", {"policy": str(world.sft)}, posts, 0)]
    for seed in seeds:
        judges = {
            "implicit": {"judge": "implicit", "judge_run": str(offline(world, seed).path)},
            "head": {"judge": "reward_model", "reward_model": str(reward_model(world, seed))},
        }
        runs = {f"offline DPO of {PAIRS}": offline(world, seed)}
        for kind, judge in judges.items():
            own = {"method": "dpo", "pairs": "best_worst", **judge}
            runs[f"{kind}: DPO in rounds"] = trained(world, f"{kind}-DPO-{seed}", seed, model=str(world.sft), **own)
            for name, settings in BY[kind].items():
                runs[f"{kind}: {name}"] = gradient(world, f"{kind}-{name}", seed, method="ppo", **judge, **settings)
        for name, run in runs.items():
            one = judged(world, f"{PAIRS}-{seed}-{name.replace(':', '')}", {"policy": str(run.policy)}, posts, seed)
            found.setdefault(name, []).append(one)
            print(f"<!-- seed {seed}, {name}: sampled {statistics.mean(one['sampled']):.3f} -->", flush=True)
    lines = [
        "| way | true reward of samples | − offline DPO | by seed | greedy | KL | length |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*lines, *(_line(name, runs, found[f"offline DPO of {PAIRS}"]) for name, runs in found.items())])


def _line(name: str, runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    values, others = ([value for run in some for value in run["sampled"]] for some in (runs, base))
    posts = [post for run in runs for post in run["sampled posts"]]
    apart = shown(difference_interval(values, others, posts)) if len(values) == len(others) else ""
    by_seed = " ".join(f"{statistics.mean(run['sampled']):.2f}" for run in runs)
    greedy = statistics.mean(value for run in runs for value in run["greedy"])
    kl, length = (statistics.mean(run[number] for run in runs) for number in ("kl", "length"))
    cells = [name, shown(mean_interval(values, posts)), apart, by_seed, f"{greedy:.2f}", f"{kl:.2f}", f"{length:.1f}"]
    return "| " + " | ".join(cells) + " |"


def credit_table(world: World, seeds: list[int]) -> str:
    """Return the true reward by rounds, and the responses that it took to come 90 % of the way of the outcome."""
    curves: dict[str, list[list[float]]] = {}
    kls: dict[str, list[float]] = {}
    for seed in seeds:
        run_of_dpo = str(offline(world, seed).path)
        for name, settings in CREDIT.items():
            reads = settings.get("credit") == "implicit" or settings.get("token_rewards") == "implicit"
            own = settings | ({"credit_run": run_of_dpo} if reads else {})
            run = gradient(world, name, seed, 256, **{"method": "rloo", "samples": 4, "judge": TRUE} | own)
            lines = [line for line in JsonLines(run.metrics).read() if "round/reward" in line]
            shares = own.get("judge") == SHARE
            rewards = [line["round/reward"] for line in lines]
            curves.setdefault(name, []).append([GOLD_RANGE * (one - 0.5) for one in rewards] if shares else rewards)
            kls.setdefault(name, []).append(lines[-1]["round/kl"])
            print(f"<!-- seed {seed}, {name}: {curves[name][-1][-1]:.3f} -->", flush=True)
    goals = [curve[0] + 0.9 * (curve[-1] - curve[0]) for curve in curves["outcome"]]
    needed = {name: [_until(*one) for one in zip(some, goals, strict=True)] for name, some in curves.items()}
    after = (4, 8, 15)
    heads = [f"after {256 * n:,}" for n in after]
    rows = [
        f"| credit | {' | '.join(heads)} | mean of rounds − outcome's | responses to 90 % | / outcome's | KL |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, some in curves.items():
        means = [f"{statistics.mean(curve[n] for curve in some):.2f}" for n in after]
        pairs = zip(some, curves["outcome"], strict=True)
        apart = _over_seeds([statistics.mean(one) - statistics.mean(other) for one, other in pairs])
        ratios = [math.log(one / other) for one, other in zip(needed[name], needed["outcome"], strict=True)]
        counts = f"{statistics.geometric_mean(needed[name]):,.0f}"
        cells = [name, *means, apart, counts, _over_seeds(ratios, math.exp), f"{statistics.mean(kls[name]):.1f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _until(curve: list[float], goal: float) -> float:
    """Return the responses after which a curve first has the goal, between rounds by a line; all where it never has."""
    for n, (one, other) in enumerate(pairwise(curve)):
        if other >= goal:
            return 256 * (n + max(0.0, goal - one) / (other - one))
    return float(SAMPLES)


def _over_seeds(values: list[float], shown_as: Callable[[float], float] = lambda value: value) -> str:
    """Return a mean with its 95 % interval by Student's t, over seeds."""
    mean, wide = statistics.mean(values), 0.0
    if len(values) > 1:
        wide = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{shown_as(mean):.2f} [{shown_as(mean - wide):.2f}, {shown_as(mean + wide):.2f}]"


if __name__ == "__main__":
    main()
