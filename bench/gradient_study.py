"""Policy gradients and DPO in the world of posts: `python -m bench.gradient_study --output FOLDER --seeds 0 1 2`.

All ways begin with the same policy that learnt from demonstrations, and are judged by the true reward of what they
write of posts that nothing was trained on. `ppo`: a reward model is fitted on 2,000 labelled pairs of that policy; DPO
learns from the same pairs, DPO in rounds and PPO from the reward model, PPO with its tricks one by one (whitened
advantages, large batches, a reference that follows). `credit`: leave-one-out on the true reward, alone and with dense
credit of the DPO run (as a baseline, as a potential, and scaled, there at the reward scale that the rewards of tokens
add and at that of the others) or of PRIME, by the true reward of every round. What is done already is not done again.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import tokenq
from bench.dro_study import shown
from bench.online_study import IN_ROUNDS, OFFLINE, judged, trained
from tokenq.demo.learning import NEW_TOKENS, World, learn
from tokenq.demo.settings import DemoSettings
from tokenq.files import JsonLines
from tokenq.jobs.rollout.online import online
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import difference_interval, mean_interval
from tokenq.terminal.progress import Progress

SAMPLES = 4096
"""Responses that every policy gradient learns from."""

LARGE, SMALL = 512, 64
"""Responses of a round, learnt from in four minibatches."""

BETA = 0.1
"""Weight of the KL penalty, in units of the labeller's temperature a nat."""

TRICKS: dict[str, dict[str, Any]] = {
    "PPO": {"responses": SMALL, "whiten_advantages": False},
    "PPO + whitened advantages": {"responses": SMALL, "whiten_advantages": True},
    "PPO + large batches": {"responses": LARGE, "whiten_advantages": True},
    "PPO + following reference": {
        "responses": LARGE,
        "whiten_advantages": True,
        "reference_sync_steps": 1,
        "reference_mixup_alpha": 0.001,
    },
    "PPO without KL": {"responses": LARGE, "whiten_advantages": True, "kl": "none", "beta": None},
}
"""Each with the tricks of those before it, but for the last."""

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
    "PRIME": {"credit": "prime"},
}
"""Rewards of tokens with weight 1 double the reward, as half the KL does."""


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
    """Return DPO on the labelled pairs of the policy as it begins."""
    return trained(world, f"{OFFLINE}-{seed}", seed, model=str(world.sft), **IN_ROUNDS[OFFLINE])


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
            learning_rate=3e-3,
            epochs=3,
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
    """Return DPO and PPO side by side, by the true reward of samples and by the reward model of the last round."""
    posts, found = world.settings.for_corruption(), dict[str, list[dict[str, Any]]]()
    found["SFT"] = [judged(world, "sft", {"policy": str(world.sft)}, posts, 0)]
    for seed in seeds:
        judge = {"judge": "reward_model", "reward_model": str(reward_model(world, seed))}
        runs = {OFFLINE: offline(world, seed)}
        own = {"method": "dpo", "pairs": "best_worst", **judge}
        runs["DPO in rounds"] = trained(world, f"DPO-by-the-model-{seed}", seed, model=str(world.sft), **own)
        for name, settings in TRICKS.items():
            runs[name] = gradient(world, name, seed, method="ppo", **judge, **settings)
        for name, run in runs.items():
            one = judged(world, f"{seed}-{name}", {"policy": str(run.policy)}, posts, seed)
            found.setdefault(name, []).append(one)
            print(f"<!-- seed {seed}, {name}: sampled {statistics.mean(one['sampled']):.3f} -->", flush=True)
    lines = [
        "| way | true reward of samples | − offline DPO | by seed | greedy | KL | length |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*lines, *(_line(name, runs, found[OFFLINE]) for name, runs in found.items())])


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
    """Return the true reward by rounds, and the responses that it took to come 90 % of the way of the best."""
    judge = f"{Path(__file__).with_name('online_study.py')}:gold"
    curves: dict[str, list[list[float]]] = {}
    for seed in seeds:
        run_of_dpo = str(offline(world, seed).path)
        for name, settings in CREDIT.items():
            reads = settings.get("credit") == "implicit" or settings.get("token_rewards") == "implicit"
            own = settings | ({"credit_run": run_of_dpo} if reads else {})
            run = gradient(world, name, seed, 256, **{"method": "rloo", "samples": 4, "judge": judge} | own)
            lines = [line for line in JsonLines(run.metrics).read() if "round/reward" in line]
            curves.setdefault(name, []).append([line["round/reward"] for line in lines])
            print(f"<!-- seed {seed}, {name}: {curves[name][-1][-1]:.3f} -->", flush=True)
    first = statistics.mean(curve[0] for some in curves.values() for curve in some)
    best = max(statistics.mean(curve[-1] for curve in some) for some in curves.values())
    goal = first + 0.9 * (best - first)
    rows = [
        "| credit | reward after "
        + " | ".join(f"{256 * n:,}" for n in (4, 8, 12, 15))
        + f" | responses to {goal:.2f}, by seed |"
    ]
    rows.append("|---|--:|--:|--:|--:|--:|")
    for name, some in curves.items():
        means = [f"{statistics.mean(curve[n] for curve in some):.2f}" for n in (4, 8, 12, 15)]
        needed = [next((256 * n for n, value in enumerate(curve) if value >= goal), None) for curve in some]
        rows.append(
            f"| {name} | {' | '.join(means)} | {' '.join('—' if one is None else f'{one:,}' for one in needed)} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
