"""One training of the study of losses, and what it came to: `bench.loss_study` runs many of these side by side.

Everything goes through the jobs behind `tokenq train`, `tokenq search` and `tokenq score`, on the files that a run of
`tokenq demo` left: its SFT policy, its pairs, its test posts, its summaries with one wrong fact.
"""

import contextlib
import io
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenq.demo.gold import GOLD
from tokenq.demo.learning import NEW_TOKENS
from tokenq.demo.settings import DemoSettings
from tokenq.demo.steps import answers, trained
from tokenq.demo.tldr import Post, make_posts
from tokenq.figures.credit import Errors, locate
from tokenq.files import JsonLines, read_json, write_json, write_json_lines
from tokenq.jobs.score import score
from tokenq.records.traces import TokenTrace

SAMPLES = 4
"""Samples of each post by which a policy is judged, besides its greedy summary."""

PAIRS, PASSES = 2000, 2.0
"""How much every loss is trained: the first pairs of the demonstration, so often."""

VALIDATION_POSTS = 100
VALIDATION_SEED = 96
"""Makes posts that the demonstration uses for nothing."""


@dataclass(frozen=True)
class Setting:
    """A loss with what it is trained with.

    Attributes:
        name: what the tables call it.
        loss: name or sum of losses; "none" for the policy that they start from.
        options: its parameters, where they are not its defaults.
        learning_rate: peak.
    """

    name: str
    loss: str
    options: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float = 1.5e-3

    @property
    def label(self) -> str:
        """Name of its folder."""
        return "_".join([self.name, *(f"{name}{value:g}" for name, value in self._values().items())])

    @property
    def says(self) -> str:
        """The same for readers."""
        return ", ".join(f"{name} {value:g}" for name, value in self._values().items())

    def _values(self) -> dict[str, float]:
        return {**self.options, "lr": self.learning_rate}


@dataclass(frozen=True)
class Demo:
    """A finished demonstration.

    Attributes:
        folder: its folder.
        seed: its seed.
    """

    folder: Path
    seed: int

    @property
    def settings(self) -> DemoSettings:
        """What it trained on."""
        return DemoSettings(self.seed)

    @property
    def sft(self) -> Path:
        """Where every training starts, and its reference."""
        return self.folder / f"sft{len(self.settings.sft_stages)}" / "policy"

    def data(self, name: str) -> Path:
        """Return one of its files of rows."""
        return self.folder / "data" / f"{name}.jsonl"

    def validation_posts(self) -> Sequence[Post]:
        """Return the posts by which settings are chosen."""
        seed = 100 * self.seed + VALIDATION_SEED
        return make_posts(VALIDATION_POSTS, seed=seed, difficulty=self.settings.difficulty)


def quietly(job: Any, *arguments: Any) -> Any:
    """Run a job on one thread, without what it prints."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return job(*arguments)


def prepare(demo: Demo, folder: Path) -> None:
    """Write what some losses need beside the pairs: a third draw of the reference, and a contrast of two models.

    The contrast of TIS-DPO is DPO on the pairs against DPO on the pairs turned round.
    """
    if (folder / "contrast.jsonl").exists():
        return
    pairs = list(JsonLines(demo.data("pairs")).read())[:PAIRS]
    write_json_lines(folder / "pairs.jsonl", pairs)
    posts = folder / "posts.jsonl"
    write_json_lines(posts, ({"prompt": pair["prompt"]} for pair in pairs))
    drawn = _written(demo, demo.sft, posts, folder / "third.jsonl", seed=demo.seed + 1000, method="sample", n=1)
    third = [{**pair, "calibration": texts[0] or " "} for pair, texts in zip(pairs, drawn, strict=True)]
    write_json_lines(folder / "calibrated.jsonl", third)
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    write_json_lines(folder / "turned.jsonl", turned)
    bad = _trained(demo, Setting("dpo", "dpo", {"beta": 0.1}), folder / "turned", folder / "turned.jsonl")
    _scored(demo.folder / "dpo" / "policy", bad, folder / "pairs.jsonl", folder / "contrast.jsonl", 0.1)


def tune(demo: Demo, setting: Setting, extra: Path, folder: Path) -> float:
    """Train, and return the true reward of samples for the validation posts."""
    path = folder / "validation.json"
    if not path.exists():
        policy = _policy(demo, setting, extra, folder)
        posts = demo.validation_posts()
        file = folder / "validation_posts.jsonl"
        write_json_lines(file, ({"prompt": post.prompt} for post in posts))
        texts = _written(demo, policy, file, folder / "validation.jsonl", seed=demo.seed, method="sample", n=SAMPLES)
        reward = float(np.mean([GOLD(post, text) for post, some in zip(posts, texts, strict=True) for text in some]))
        write_json(path, {"gold": reward})
    return float(read_json(path)["gold"])


def judge(demo: Demo, setting: Setting, extra: Path, folder: Path) -> dict[str, float]:
    """Train, and return what the policy is worth on posts that nothing was trained or chosen on."""
    path = folder / "result.json"
    if not path.exists():
        found = _judged(demo, setting, _policy(demo, setting, extra, folder), folder)
        write_json(path, found)
    return dict(read_json(path))


def _policy(demo: Demo, setting: Setting, extra: Path, folder: Path) -> Path:
    """Return the policy of a setting, trained where it is not there yet; beside it the seconds that it took."""
    if setting.loss == "none":
        return demo.sft
    if not (folder / "run" / "policy").exists():
        begin = time.perf_counter()
        data = extra / ("calibrated.jsonl" if setting.name == "selm" else "pairs.jsonl")
        weighed = {"token_weights": "readout:contrast", "token_traces": str(extra / "contrast.jsonl")}
        more = weighed if setting.name == "tis_dpo" else {}
        _trained(demo, setting, folder / "run", data, **more)
        write_json(folder / "seconds.json", time.perf_counter() - begin)
    return folder / "run" / "policy"


def _trained(demo: Demo, setting: Setting, output: Path, data: Path, **more: Any) -> Path:
    shutil.rmtree(output, ignore_errors=True)  # of a training that was broken off
    return trained(
        output,
        model=str(demo.sft),
        data=(str(data),),
        loss=setting.loss,
        beta=setting.options.get("beta"),
        loss_options={name: str(value) for name, value in setting.options.items() if name != "beta"},
        learning_rate=setting.learning_rate,
        epochs=PASSES,
        **recipe(demo.settings, output.parent / "reference"),
        **more,
    )


def recipe(own: DemoSettings, store: Path) -> dict[str, Any]:
    """Return what every training has from the demonstration.

    Args:
        own: its settings.
        store: where log-probs of the reference are kept.
    """
    return {
        "batch_size": own.dpo_batch_size,
        "warmup_steps": own.dpo_warmup_steps,
        "schedule": "cosine",
        "reference_store": str(store),
        "seed": own.seed,
        "device": "cpu",
        "dtype": "float32",
    }


def decoding(seed: int) -> dict[str, Any]:
    """Return how summaries are written."""
    return {"max_new_tokens": NEW_TOKENS, "batch_size": 150, "device": "cpu", "seed": seed}


def _written(demo: Demo, policy: Path, prompts: Path, output: Path, *, seed: int, **method: Any) -> list[list[str]]:
    found = answers(output, policy=str(policy), prompts=[str(prompts)], **decoding(seed), **method)
    return [[candidate.text for candidate in result.candidates] for result in found]


def _scored(policy: Path, reference: Path, data: Path, output: Path, beta: float) -> list[TokenTrace]:
    return list(score(policy, data, output, reference=reference, beta=beta, levels=(), top_k=0, device="cpu"))


def _judged(demo: Demo, setting: Setting, policy: Path, folder: Path) -> dict[str, float]:
    """Return the numbers of one policy.

    KL(π‖π_ref) is the mean of Σ log π/π_ref over the policy's own samples. Implicit rewards are read as log π/π_ref
    whatever the loss was; for a loss without a reference this is the advantage of no stated objective.
    """
    posts = demo.settings.for_test()
    greedy = _written(demo, policy, demo.data("test"), folder / "greedy.jsonl", seed=demo.seed, method="greedy")
    drawn = _written(
        demo, policy, demo.data("test"), folder / "sampled.jsonl", seed=demo.seed, method="sample", n=SAMPLES
    )
    both = [(post, text) for post, some in zip(posts, drawn, strict=True) for text in some]
    write_json_lines(folder / "own.jsonl", ({"prompt": post.prompt, "completion": text or " "} for post, text in both))
    own = _scored(policy, demo.sft, folder / "own.jsonl", folder / "own.traces.jsonl", 1.0)
    held_out = _scored(policy, demo.sft, demo.data("held_out"), folder / "held_out.traces.jsonl", 1.0)
    ratios = np.array([trace.totals.implicit_reward for trace in held_out]).reshape(-1, 2)
    rows = list(JsonLines(demo.data("corrupted")).read())
    wrong = _scored(policy, demo.sft, demo.data("corrupted"), folder / "corrupted.traces.jsonl", 1.0)
    errors = Errors("errors put in", wrong, [row["errors"] for row in rows], [str(i) for i in range(len(rows))])
    auroc = {row.readout: row.metrics["auroc"].value for row in locate(errors).rows}
    seconds = folder / "seconds.json"
    return {
        "greedy": float(np.mean([GOLD(post, texts[0]) for post, texts in zip(posts, greedy, strict=True)])),
        "sampled": float(np.mean([GOLD(post, text) for post, text in both])),
        "kl": float(np.mean([trace.totals.implicit_reward for trace in own])),
        "length": float(np.mean([trace.totals.tokens for trace in own])),
        "accuracy": float(np.mean(ratios[:, 0] > ratios[:, 1])),
        "chosen": float(ratios[:, 0].mean()),
        "rejected": float(ratios[:, 1].mean()),
        "auroc": auroc["implicit_reward"],
        "auroc_centred": auroc["centred_advantage"],
        "auroc_policy": auroc["policy_surprisal"],
        "seconds": read_json(seconds) if seconds.exists() else 0.0,
    }
