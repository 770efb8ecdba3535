"""All losses on the same pairs, from the same start: `python -m bench.loss_study --output runs/losses --seeds 0 1 2`.

Makes the demonstrations that it needs (`tokenq demo`, one each seed; folders that are there are used), trains every
loss on every seed, and judges on posts that neither training nor the choice of settings has seen. What is finished is
not done again. Settings are those of `loss_settings.json`; with --tune they are chosen anew, by the true reward on a
validation split of the first seed, and the file is written: three strengths a loss, and one step further where the best
is at the edge.
"""

import argparse
import itertools
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.loss_jobs import Demo, Setting, judge, prepare, quietly, tune
from tokenq.core.losses import LOSSES
from tokenq.files import read_json, write_json
from tokenq.rundir import provenance

STRENGTHS: dict[str, tuple[str, Sequence[float]]] = {
    "ipo": ("beta", (0.1, 0.3, 1.0)),  # of a mean over tokens: a response of ten has a tenth of the sum
    "simpo": ("beta", (1.0, 2.0, 5.0)),  # the authors': 2 to 10, of a mean over tokens
    "orpo": ("odds_weight", (0.1, 0.3, 1.0)),
    "cal_dpo": ("beta", (0.003, 0.01, 0.03)),
    "sppo": ("beta", (0.001, 0.01, 0.1)),
}
"""What to choose between in losses in which β means something else than in DPO, or is called so."""

SETTINGS = Path(__file__).with_name("loss_settings.json")
"""Chosen settings by loss, with the true reward of samples for the validation posts of all that were tried."""

BETAS = ("beta", (0.03, 0.1, 0.3))
"""The same for all others."""

LEFT_OUT = {
    "plackett_luce": "of two responses it is DPO",
    "step_dpo": "a summary is one step, and then it is DPO",
}
"""Losses of the table that these data have nothing for, with the reason."""

SUMS = {"rpo": "dpo+0.2*sft", "tis_dpo": "dpo"}
"""What has a name of its own: a sum, and DPO with weights of tokens."""

NUMBERS = {
    "greedy": "greedy: gold reward",
    "sampled": "sampled: gold reward",
    "kl": "KL to SFT, nats",
    "length": "length",
    "accuracy": "held-out accuracy",
    "chosen": "log π/π_ref chosen",
    "rejected": "rejected",
    "auroc": "AUROC implicit reward",
    "auroc_centred": "centred advantage",
    "auroc_policy": "policy surprisal",
    "seconds": "training, s",
}
"""Columns of the table by the name that `judge` gives."""


def main() -> None:
    """Run what is missing, print the table, and write study.json and study.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="*", help="these alone")
    parser.add_argument("--tune", action="store_true", help=f"choose settings anew, and write {SETTINGS.name}")
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", default=[1.5e-3], help="to choose from; the demonstration's"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, a thread each")
    asked = parser.parse_args()
    demos = [Demo(asked.output / f"demo{seed}", seed) for seed in asked.seeds]
    for demo in demos:
        if not (demo.folder / "report").exists():
            words = ["demo", "--seed", str(demo.seed), "--output", str(demo.folder)]
            subprocess.run([sys.executable, "-m", "tokenq", *words], check=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.jobs, mp_context=context) as pool:
        study = Study(asked.output, demos, pool)
        losses = [name for name in names() if not asked.losses or name in asked.losses]
        if asked.tune:
            study.tune({name: candidates(name, asked.learning_rates) for name in losses})
        chosen = kept_settings(losses)
        results = study.judge(chosen)
    text = table(chosen, results)
    record = provenance({"seeds": asked.seeds, "losses": sorted(chosen)}, asked.seeds[0], {})
    write_json(asked.output / "study.json", {**record, "results": results})
    (asked.output / "study.md").write_text(text, encoding="utf-8")
    print(text)


class Study:
    """The trainings of a study in a pool of processes.

    Args:
        folder: where everything goes.
        demos: the demonstrations, one each seed; settings are chosen on the first.
        pool: where trainings run.
    """

    def __init__(self, folder: Path, demos: Sequence[Demo], pool: ProcessPoolExecutor) -> None:
        self._folder, self._demos, self._pool = folder, demos, pool
        self._all({demo.seed: (prepare, demo, self._extra(demo)) for demo in demos}, "prepared")

    def tune(self, every: dict[str, list[Setting]]) -> None:
        """Write for every loss the setting of the best validation reward, with the rewards of all."""
        found = self._tuned(every)
        further = {name: beyond(settings, found[name]) for name, settings in every.items()}
        more = self._tuned(further)
        tried = {name: {**found[name], **more[name]} for name in every}
        kept = read_json(SETTINGS) if SETTINGS.exists() else {}
        for name, settings in every.items():
            best = max([*settings, *further[name]], key=lambda setting: tried[setting.name][setting.label])
            kept[name] = {"options": best.options, "learning_rate": best.learning_rate, "tried": tried[name]}
        write_json(SETTINGS, kept)

    def _tuned(self, every: dict[str, list[Setting]]) -> dict[str, dict[str, float]]:
        first = self._demos[0]
        jobs = {
            (name, setting.label): (tune, first, setting, self._extra(first), self._place(first, setting))
            for name, settings in every.items()
            for setting in settings
        }
        found = self._all(jobs, "tried")
        return {name: {one.label: found[name, one.label] for one in settings} for name, settings in every.items()}

    def judge(self, chosen: dict[str, Setting]) -> dict[str, list[dict[str, float]]]:
        """Return what every loss came to, one entry for each seed; before them the SFT policy itself."""
        settings = {"SFT": Setting("SFT", "none"), **chosen}
        jobs = {
            (name, demo.seed): (judge, demo, setting, self._extra(demo), self._place(demo, setting))
            for name, setting in settings.items()
            for demo in self._demos
        }
        found = self._all(jobs, "judged")
        return {name: [found[name, demo.seed] for demo in self._demos] for name in settings}

    def _extra(self, demo: Demo) -> Path:
        folder = self._folder / f"seed{demo.seed}" / "extra"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _place(self, demo: Demo, setting: Setting) -> Path:
        folder = self._folder / f"seed{demo.seed}" / setting.label
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _all(self, jobs: dict[Any, tuple[Any, ...]], done: str) -> dict[Any, Any]:
        """Run jobs and return their results by name; what fails is named at the end, when the others are done."""
        waiting: dict[Future[Any], Any] = {self._pool.submit(quietly, *job): name for name, job in jobs.items()}
        found, failed = {}, {}
        for number, future in enumerate(as_completed(waiting), 1):
            name = waiting[future]
            if (error := future.exception()) is not None:
                failed[name] = error
            else:
                found[name] = future.result()
            print(f"{done} {number}/{len(jobs)}: {name}", file=sys.stderr, flush=True)
        if failed:
            raise RuntimeError("\n".join(f"{name}: {error}" for name, error in failed.items()))
        return found


def kept_settings(losses: Sequence[str]) -> dict[str, Setting]:
    """Return the settings that were chosen for some losses."""
    kept = read_json(SETTINGS)
    return {
        name: Setting(name, SUMS.get(name, name), kept[name]["options"], kept[name]["learning_rate"]) for name in losses
    }


def names() -> list[str]:
    """Return what the study compares: the losses of policies, without those that the data have nothing for."""
    return [name for name, loss in LOSSES.items() if loss.output == "logps" and name not in LEFT_OUT] + list(SUMS)


def candidates(name: str, rates: Sequence[float]) -> list[Setting]:
    """Return the settings of a loss to choose from."""
    loss = SUMS.get(name, name)
    if name == "sft":
        return [Setting(name, loss, {}, rate) for rate in rates]
    parameter, values = STRENGTHS.get(name, BETAS)
    return [Setting(name, loss, {parameter: value}, rate) for value, rate in itertools.product(values, rates)]


def beyond(settings: Sequence[Setting], rewards: dict[str, float]) -> list[Setting]:
    """Return the setting one step outside, where the best strength is the smallest or the largest that was tried."""
    best = max(settings, key=lambda setting: rewards[setting.label])
    if not best.options:
        return []
    ((parameter, value),) = best.options.items()
    values = sorted({one.options[parameter] for one in settings})
    wider = {values[0]: values[0] / 3, values[-1]: values[-1] * 3}
    return [replace(best, options={parameter: wider[value]})] if value in wider else []


def table(chosen: dict[str, Setting], results: dict[str, list[dict[str, float]]]) -> str:
    """Return the results as Markdown, mean ± standard deviation over seeds, the best sampled reward first."""
    lines = [
        "| loss | setting | " + " | ".join(NUMBERS.values()) + " |",
        "| --- | --- |" + " --: |" * len(NUMBERS),
    ]
    order = sorted(results, key=lambda name: -statistics.mean(one["sampled"] for one in results[name]))
    for name in order:
        says = chosen[name].says if name in chosen else ""
        lines.append(f"| {name} | {says} | " + " | ".join(_cell(results[name], key) for key in NUMBERS) + " |")
    return "\n".join(lines) + "\n"


def _cell(results: Sequence[dict[str, float]], key: str) -> str:
    values = [one[key] for one in results]
    if key == "seconds":
        return f"{statistics.mean(values):.0f}"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
