"""Folders of finished training runs, written by hand with known numbers of every held-out pair."""

import json

import yaml

STARTS = {"a": (-10.0, -6.0), "b": (-8.0, -9.0), "c": (-4.0, -12.0), "d": (-9.0, -14.0)}
"""Pair → log π of chosen and rejected before the first update."""

TOKENS = {"a": (5, 3), "b": (4, 4), "c": (2, 6), "d": (3, 7)}

FIRST = {"a": (-1.0, -3.0), "b": (-2.0, -1.0), "c": (0.0, 0.0), "d": (1.0, -2.0)}
"""Pair → change of log π of chosen and rejected: margins 2, −1, 0 and 3."""

SECOND = {"a": (0.0, -1.0), "b": (0.0, -2.0), "c": (-1.0, 0.0), "d": (0.0, 0.0)}
"""Margins 1, 2, −1 and 0."""

CONFIG = {
    **{"model": "start", "data": ["pairs.jsonl"], "eval_data": ["test.jsonl"], "eval_size": 0, "lora_rank": 0},
    **{"loss": "dpo", "beta": 0.1, "loss_options": {}, "max_length": 512, "learning_rate": 1e-6, "seed": 0},
    **{"max_steps": 20, "batch_size": 2, "output": "somewhere"},
}


def write_run(folder, drifts, *, prompts=None, reference=True, start=None, steps=20, beta=0.1, **config):
    """Write a finished run and return its folder as text.

    Args:
        folder: where to.
        drifts: pair → change of log π of chosen and rejected, as `FIRST`.
        prompts: pair → its prompt; each its own when None.
        reference: whether its loss has a reference (that it began from).
        start: pair → log π before the first update; `STARTS` when None.
        steps: optimiser steps.
        beta: of its rewards.
        without: numbers that no round has.
        config: settings that differ from `CONFIG`.
    """
    folder.mkdir(parents=True)
    (folder / "policy").mkdir()
    settings = CONFIG | {"beta": beta if reference else None, "output": str(folder)} | config
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    write_provenance(folder, beta=beta if reference else None, **({} if reference else {"reference": None}))
    lines = []
    for number, (name, drift) in enumerate(drifts.items()):
        for side, place in (("chosen", 0), ("rejected", 1)):
            before = (start or STARTS)[name][place]
            lines.append(
                {
                    **{"step": steps, "example": number, "row": f"test.jsonl, row {name}", "side": side},
                    **{"prompt": (prompts or {}).get(name, f"prompt of {name}"), "response": f"{side} of {name}"},
                    **{"tokens": TOKENS[name][place], "logp": before + drift[place], "start_logp": before},
                    "ref_logp": before if reference else None,
                }
            )
    write_lines(folder / "held_out.jsonl", lines)
    write_metrics(folder, steps, beta if reference else None)
    return str(folder)


def write_metrics(folder, steps, beta, evaluated=(0, 10, 20)):
    """Write metrics in which log π of chosen falls by a tenth of a nat a step and that of rejected by twice that."""
    lines = []
    for step in range(steps + 1):
        logps = {"logps/chosen": -8.0 - 0.1 * step, "logps/rejected": -10.0 - 0.2 * step}
        rewards = {"kl": 0.15 * step, "rewards/chosen": -0.1 * step, "rewards/rejected": -0.2 * step}
        rewards = {name: value if name == "kl" else beta * value for name, value in rewards.items()} if beta else {}
        if step:
            cost = {"tokens": 30.0 * step, "seconds": 0.5 + step % 2, "peak_memory_gb": 1.0 + step / 100}
            # A step's numbers are of before its update; rewards here are of the step before.
            before = {name: value * (step - 1) / step for name, value in rewards.items()}
            lines.append({"step": step, "loss": 0.6, **logps, **before, **cost})
        if step in evaluated:
            lines.append({"step": step, "eval_loss": 0.6, **{f"eval_{n}": v for n, v in (logps | rewards).items()}})
    write_lines(folder / "metrics.jsonl", lines)


ROUND = {"reward": 0.4, "pairs": 40, "prompts": 50, "without_signal": 0.2, "ties": 0.3, "unusable": 0.0, "length": 20.0}
ROUND |= {"truncated": 0.0, "entropy": 1.5, "kl": 0.0, "distinct": 0.9, "distinct_1": 0.1, "distinct_2": 0.4}
EVALUATION = {"prompts": 100, "reward": 0.4, "accuracy": 0.4, "length": 20.0, "truncated": 0.0}


def write_rounds(folder, numbers, evaluations=(), without=(), **config):
    """Write a finished run in rounds of two steps, and return its folder.

    Args:
        folder: where to.
        numbers: those of each round that differ from `ROUND`; intervals are ± .05.
        evaluations: those of the start and after each round that differ from `EVALUATION`.
        config: settings that differ from `CONFIG`.
    """
    folder.mkdir(parents=True)
    (folder / "policy").mkdir()
    settings = (
        CONFIG | {"prompts": ["questions.jsonl"], "judge": "verifier", "rounds": 3, "output": str(folder)} | config
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"data": [], "eval_data": [], "max_steps": None}))
    write_provenance(folder, data=None, eval_data=None)

    def line(values, name, ends):
        with_ends = {f"{one}_{end}": values[one] + by for one in ends for end, by in (("low", -0.05), ("high", 0.05))}
        return {f"{name}/{key}": value for key, value in (values | with_ends).items()}

    lines = []
    for number in range(len(numbers) + 1):
        if number < len(evaluations):
            after = line(EVALUATION | evaluations[number], "eval", ("reward", "accuracy"))
            lines.append({"step": 2 * number, "after_round": number, **after})
        if number < len(numbers):
            begun = {"step": 2 * number, "round": number + 1}
            own = {key: value for key, value in (ROUND | numbers[number]).items() if key not in without}
            lines.append(begun | line(own, "round", ("reward",)))
            learnt = {"loss": 0.693147, "grad_norm": 1.0, "rewards/chosen": 0.01 * number}
            learnt["rewards/rejected"] = -learnt["rewards/chosen"]
            lines += [{"step": 2 * number + 1, **learnt}, {"step": 2 * number + 2, "loss": None}]
    write_lines(folder / "metrics.jsonl", lines)
    return folder


def write_provenance(folder, *, beta=0.1, **changes):
    """Write provenance; `changes` replace fields, as model={"weights": …}."""
    model = {"path": "start", "weights": "a" * 64}
    record = {
        **{"schema": 1, "started": "2026-12-01T00:00:00+00:00", "beta": beta, "config": CONFIG, "device": "cpu x 1"},
        **{"model": model, "reference": model},
        "data": {"sha256": "d" * 64, "summary": {"rows": 40, "pairs": 40}},
        "eval_data": {"sha256": "e" * 64, "summary": {"rows": 4, "pairs": 4}},
    }
    (folder / "provenance.json").write_text(json.dumps(record | changes))


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_lines(folder, change):
    """Replace every line of `held_out.jsonl` by what `change` makes of it."""
    path = folder / "held_out.jsonl"
    write_lines(path, [change(json.loads(line)) for line in path.read_text().splitlines()])
