"""`tokenq demo`: a tiny model learns a small world on this machine, through the same job as any user's own run.

Demonstrations first (sft), then preferences (dpo); before and after, held-out preferences say what was learnt. Needs no
network, no data file and no accelerator.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tokenq.cli import train
from tokenq.core.stats import proportion_interval
from tokenq.errors import UserError
from tokenq.files import folder_aside, write_text
from tokenq.train.config import DemoConfig, TrainConfig
from tokenq.train.loop import Summary
from tokenq.worlds.demo import DemoSettings, demo_model

_ROWS = {
    "implicit reward prefers the chosen one": "eval_rewards/accuracies",
    "likelihood prefers the chosen one": "eval_logps/accuracies",
    "reward margin (nats)": "eval_rewards/margins",
    "DPO loss": "eval_loss",
    "KL estimate (nats a response)": "eval_kl",
}
"""Lines of the closing table, and the metric behind each."""


def run(config: DemoConfig) -> None:
    """Run the demonstration that `config` asks for, and print what it showed.

    Raises:
        UserError: the output folder is in use.
    """
    output, console, begin = Path(config.output), Console(highlight=False, soft_wrap=True), time.perf_counter()
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty.", f"Remove it (rm -r {output}), or choose another --output.")
    settings = replace(DemoSettings(), seed=config.seed)
    policy = _start(output / "start", config, console)
    for number, (stage, rows) in enumerate(zip(settings.sft_stages, settings.sft_rows(), strict=True), 1):
        data = _write_rows(output / "data" / f"demonstrations{number}.jsonl", rows, config)
        console.rule(f"step {number}: learn to summarise from demonstrations")
        sft = replace(
            _training(config, policy, data, output / f"sft{number}"),
            loss="sft",
            batch_size=settings.sft_batch_size,
            learning_rate=settings.sft_learning_rate,
            schedule=stage.schedule,
            warmup_steps=settings.sft_warmup_steps,
        )
        train.run(sft)
        policy = output / f"sft{number}" / "policy"
    console.rule(f"step {len(settings.sft_stages) + 1}: learn what is preferred")
    preferences = _write_rows(output / "data" / "preferences.jsonl", settings.pair_rows(), config)
    held_out = _write_rows(output / "data" / "held_out.jsonl", settings.held_out_rows(), config)
    dpo = replace(
        _training(config, policy, preferences, output / "dpo"),
        eval_data=(str(held_out),),
        beta=settings.dpo_beta,
        batch_size=settings.dpo_batch_size,
        learning_rate=settings.dpo_learning_rate,
        schedule="cosine",
        warmup_steps=settings.dpo_warmup_steps,
        reference_store=str(output / "reference"),
    )
    summary = train.run(dpo)
    with held_out.open(encoding="utf-8") as lines:
        console.print(_table(summary, sum(1 for _ in lines)))
    console.print(f"{time.perf_counter() - begin:.0f} s in all. The policy: {output / 'dpo' / 'policy'}")
    console.print("The same step by hand, or with a model and data of your own:")
    console.print(f"  tokenq train --model {policy} --data {preferences} --loss dpo --output runs/mine")


def _start(folder: Path, config: DemoConfig, console: Console) -> Path:
    """Write the untrained model and return its folder."""
    model, tokenizer = demo_model(config.seed)
    with folder_aside(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    console.print(f"A GPT-NeoX of {model.num_parameters():,} weights that knows nothing yet: {folder}")
    return folder


def _training(config: DemoConfig, model: Path, data: Path, output: Path) -> TrainConfig:
    """Return what all trainings of the demonstration share."""
    return TrainConfig(
        model=str(model),
        data=(str(data),),
        output=str(output),
        device="cpu",
        dtype="float32",
        seed=config.seed,
        logging_steps=100,
        keep_checkpoints=0,
    )


_QUICK_ROWS = 64
"""Rows of every kind in a quick run."""


def _write_rows(path: Path, rows: Sequence[Mapping[str, str]], config: DemoConfig) -> Path:
    """Write rows as JSON lines, a few of them for a quick run, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = rows[:_QUICK_ROWS] if config.quick else rows
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    return path


def _table(summary: Summary, pairs: int) -> Table:
    """Return the numbers before and after as a table, shares with their 95 % interval."""
    table = Table("held-out preferences", "after sft", "after dpo", title=f"{pairs} pairs on posts never seen")
    for label, metric in _ROWS.items():
        cells = []
        for when in (summary.before, summary.after):
            value = when[metric]
            if metric.endswith("accuracies"):
                low, high = proportion_interval(round(value * pairs), pairs)
                tied = metric == "eval_rewards/accuracies" and when is summary.before
                cells.append("all tied" if tied else f"{value:.3f} [{low:.3f}, {high:.3f}]")
            else:
                cells.append(f"{value:.3f}")
        table.add_row(label, *cells)
    return table
