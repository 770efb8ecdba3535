"""An online run as one page that grows while it runs: curves over rounds, a table of them, settings and examples.

The page is made of what is on disk, has no script and loads nothing. A figure's place 0 is the policy at the start, and
place k the policy after k rounds: what a round writes comes from the policy of the round before.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenq.data.chat.messages import text_of_turn
from tokenq.files import JsonLines, write_text
from tokenq.records.rollouts import Rollout
from tokenq.report.doctor_page import HEIGHT, WIDTH, Figure, Line, drawn_figure
from tokenq.report.offline import offline_page, writable
from tokenq.report.outcome import said, shown_table
from tokenq.rundir import RunDir
from tokenq.runs.record import Series
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Cell, Table
from tokenq.training.recorded import read_config, read_metrics, read_provenance

PROMPTS = 4
"""Prompts of a round that are shown with all their responses, and held-out ones."""

LONGEST = 1200
"""Characters of a text that are shown; the files have all of it."""

_DOTS = 40


class _Drawn(NamedTuple):
    """A figure of the page.

    Attributes:
        title: what it shows, with its unit.
        lines: (key in metrics.jsonl, label, kind).
        shift: added to the number of a round for its place.
        level: value of a line across.
    """

    title: str
    lines: tuple[tuple[str, str, str], ...]
    shift: int = -1
    level: float = 0.0


_FIGURES = (
    _Drawn("reward", (("round/reward", "samples", "first"), ("eval/reward", "held out, greedy", "second"))),
    _Drawn(
        "accuracy",
        (("eval/accuracy", "answers, held out", "first"), ("eval/judge_accuracy", "judge on known pairs", "second")),
    ),
    _Drawn(
        "win rate on held-out prompts, ties half",
        (("eval/won_start", "against the start", "first"), ("eval/won_last", "against the round before", "second")),
        level=0.5,
    ),
    _Drawn("KL to the first reference, nats per response", (("round/kl", "KL", "first"),)),
    _Drawn(
        "KL to the reference of the round, nats per token",
        tuple((f"round/kl_{k}", k, kind) for k, kind in (("k1", "first"), ("k2", "second"), ("k3", "third"))),
    ),
    _Drawn("advantages", (("round/advantage_mean", "mean", "first"), ("round/advantage_std", "deviation", "second"))),
    _Drawn("variance that the values explain", (("round/explained_variance", "1 − Var(G − V)/Var(G)", "first"),)),
    _Drawn(
        "clipped tokens, share",
        (("clip_ratio/low_mean", "below", "first"), ("clip_ratio/high_mean", "above", "second")),
        shift=0,
    ),
    _Drawn("KL to the policy that wrote, nats per token", (("kl_old/k3", "k3", "first"),), shift=0),
    _Drawn(
        "rewards of tokens",
        (
            ("round/token_reward", "mean", "first"),
            ("round/token_reward_std", "deviation", "second"),
            ("round/token_reward_correlation", "correlation with the judge", "third"),
        ),
    ),
    _Drawn(
        "weights against another writer",
        (("round/importance_weight", "mean", "first"), ("round/importance_left_out", "share of 0", "second")),
    ),
    _Drawn("log π of what the reference writes, nats", (("round/logps_of_reference", "E_ref log π", "first"),)),
    _Drawn(
        "tokens per response", (("round/length", "samples", "first"), ("eval/length", "held out, greedy", "second"))
    ),
    _Drawn(
        "share of responses that are cut",
        (("round/truncated", "samples", "first"), ("eval/truncated", "held out, greedy", "second")),
    ),
    _Drawn("entropy, nats per token", (("round/entropy", "samples", "first"),)),
    _Drawn(
        "share that is distinct",
        (
            ("round/distinct", "responses", "first"),
            ("round/distinct_1", "tokens", "second"),
            ("round/distinct_2", "pairs of tokens", "third"),
        ),
    ),
    _Drawn(
        "nothing to learn from",
        (
            ("round/without_signal", "prompts that teach nothing", "first"),
            ("round/ties", "ties among comparisons", "second"),
            ("round/unusable", "responses without a reward", "third"),
        ),
    ),
    _Drawn(
        "cost of a round, tokens",
        (
            ("round/written_tokens", "writer", "first"),
            ("round/judged_tokens", "judge", "second"),
            ("round/learnt_tokens", "trainer", "third"),
        ),
        shift=0,
    ),
    _Drawn(
        "time of a round, seconds",
        (
            ("seconds/writer", "writer", "first"),
            ("seconds/judge", "judge", "second"),
            ("seconds/trainer", "trainer", "third"),
            ("seconds/outside", "outside of them", "fourth"),
        ),
        shift=0,
    ),
)

_COLUMNS = (
    ("reward", "round/reward"),
    ("held-out reward", "eval/reward"),
    ("accuracy", "eval/accuracy"),
    ("won against the start", "eval/won_start"),
    ("pairs", "round/pairs"),
    ("learnt from", "round/responses"),
    ("tokens per response", "round/length"),
    ("KL", "round/kl"),
    ("entropy", "round/entropy"),
)
"""Columns of the table: what a round wrote, and what the policy after it does."""

_SETTINGS = (
    *("model", "reference", "prompts", "eval_prompts", "eval_size", "data", "method", "loss", "loss_options", "beta"),
    *("judge", "reward_model", "judge_run", "pairs", "replay", "reference_moves", "rounds"),
    *(
        "credit",
        "token_rewards",
        "token_reward_form",
        "token_reward_weight",
        "token_reward_clip",
        "credit_run",
        "gamma",
    ),
    *("lam", "scale_rewards", "reward_clip", "whiten_advantages", "kl", "kl_estimator", "importance_correction"),
    *("truncated", "reference_sync_steps", "reference_mixup_alpha"),
    *("prompts_per_round", "samples", "temperature", "top_k", "top_p", "max_new_tokens", "learning_rate"),
    *("batch_size", "epochs", "lora_rank", "seed"),
)


def page_of(run: RunDir) -> Path:
    """Return the place of the page of a run."""
    return run.path / "report" / "index.html"


def write_rounds_page(run: RunDir) -> Path:
    """Write the page of what is on disk of a run, aside and renamed, and return its place.

    Raises:
        UserError: a file of the run is broken, or the place cannot be written.
    """
    config, lines = read_config(run), _with_steps(read_metrics(run))
    if config["judge"] == "verifier":  # the accuracy is the reward then
        lines = [{key: value for key, value in line.items() if not key.startswith("eval/accuracy")} for line in lines]
    number = max((int(line["round"]) for line in lines if "round" in line), default=0)
    record = {**read_provenance(run), "made_by": "tokenq online"}
    text = offline_page(
        "rounds.html.jinja",
        (),
        ("theme.css", "sheet.css", "curves.css", "rounds.css"),
        f"{run.path.name}: {number} of {config['rounds']} rounds",
        {},
        record,
        figures=[figure for one in _FIGURES if (figure := _figure(one, lines, number)) is not None],
        width=WIDTH,
        height=HEIGHT,
        table=shown_table(_table(lines)),
        settings=[(name.replace("_", " "), _said(config[name])) for name in _SETTINGS if _said(config.get(name))],
        number=number,
        examples=list(_examples(run, number)) if number else [],
        held_out=list(_held_out(run, lines)),
    )
    write_text(page_of(run), writable(text))
    return page_of(run)


_OF_STEPS = ("clip_ratio/low_mean", "clip_ratio/high_mean", "kl_old/k3")
"""Numbers of steps that are shown as their mean over a round."""


def _with_steps(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines of rounds and evaluations, those of rounds with the means over their steps."""
    steps: dict[int, list[Mapping[str, Any]]] = {}
    number = 0
    for line in lines:
        number = int(line.get("round", number))
        steps.setdefault(number, []).append(line)

    def means(some: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        known = {name: [one[name] for one in some if one.get(name) is not None] for name in _OF_STEPS}
        return {name: sum(values) / len(values) for name, values in known.items() if values}

    rounds = [line for line in lines if "round" in line or "after_round" in line]
    return [{**line, **means(steps[int(line["round"])])} if "round" in line else line for line in rounds]


def _figure(asked: _Drawn, lines: Sequence[Mapping[str, Any]], number: int) -> Figure | None:
    drawn = []
    for key, label, kind in asked.lines:
        known = [line for line in lines if line.get(key) is not None]
        if not known:
            continue
        places = [int(line["round"]) + asked.shift if "round" in line else int(line["after_round"]) for line in known]
        series = Series(np.array(places, np.int64), _column(known, key))
        ends = tuple(_column(known, f"{key}_{end}") for end in ("low", "high"))
        whole = all(np.isfinite(end).all() for end in ends)
        drawn.append(Line(label, kind, series, (ends[0], ends[1]) if whole else None))
    return drawn_figure(asked.title, drawn, level=asked.level, dots=_DOTS, end=number)


def _column(lines: Sequence[Mapping[str, Any]], key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if line.get(key) is None else line[key] for line in lines], np.float64)


def _table(lines: Sequence[Mapping[str, Any]]) -> Table:
    rounds: dict[int, dict[str, Any]] = {}
    for line in lines:
        for name in ("round", "after_round"):
            if name in line:
                rounds.setdefault(int(line[name]), {}).update(line)
    used = [one for one in _COLUMNS if any(line.get(one[1]) is not None for line in rounds.values())]
    rows = [
        ["start" if number == 0 else f"round {number}", *(_cell(line, key) for _, key in used)]
        for number, line in sorted(rounds.items())
    ]
    note = "Reward, pairs, length, KL and entropy are of what the policy wrote before it learnt from the round."
    return Table("Rounds", ["", *(name for name, _ in used)], rows, note)


def _cell(line: Mapping[str, Any], key: str) -> Cell:
    value, low, high = (line.get(f"{key}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return None
    if low is not None and high is not None:
        return Estimate(value, low, high, 0)
    return int(value) if key in ("round/pairs", "round/responses") else float(value)


def _examples(run: RunDir, number: int) -> Iterator[dict[str, Any]]:
    """Yield prompts of a round with all their responses, those that are learnt from first."""
    place = run.round(number)
    sides: dict[tuple[str, int], str] = {}
    for pair in JsonLines(place / "pairs.jsonl").read():
        for side in ("chosen", "rejected"):
            sides.setdefault((str(pair["id"]), int(pair[f"{side}_number"])), side)
    by_prompt: dict[str, list[Rollout]] = {}
    for row in JsonLines(place / "rollouts.jsonl").read():
        one = Rollout.from_dict(row)
        by_prompt.setdefault(one.id, []).append(one)
    for line in JsonLines(place / "advantages.jsonl").read():
        mean = sum(line["advantages"]) / sum(line.get("mask", [1] * len(line["advantages"])))
        sides[str(line["id"]), int(line["number"])] = f"advantage {said(mean)}"
    learnt = {name for name, _ in sides}
    for name in sorted(by_prompt, key=lambda name: name not in learnt)[:PROMPTS]:
        rows = [_response(one, sides.get((name, one.number), "")) for one in by_prompt[name]]
        yield {"name": name, "prompt": _prompt(by_prompt[name][0]), "responses": rows}


def _held_out(run: RunDir, lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield held-out prompts with the response of the start and that of now."""
    evaluated = [int(line["after_round"]) for line in lines if "eval/prompts" in line]
    numbers = sorted({0, *evaluated[-1:]}) if evaluated else []
    files = [JsonLines(run.round(number) / "eval.jsonl").read()[:PROMPTS] for number in numbers]
    for rows in zip(*files, strict=True):
        shown = [Rollout.from_dict(row) for row in rows]
        named = [f"after round {number}" if number else "start" for number in numbers]
        responses = [_response(one, name) for one, name in zip(shown, named, strict=True)]
        yield {"name": shown[0].id, "prompt": _prompt(shown[0]), "responses": responses}


def _response(one: Rollout, part: str) -> dict[str, str]:
    mean = sum(one.logps) / max(1, one.length)
    return {
        "part": part,
        "writer": one.writer if one.compared else f"{one.writer}, to calibrate on",
        "reward": "–" if one.reward is None else said(one.reward),
        "tokens": f"{one.length}{'' if one.finish == 'stop' else ', cut'}",
        "logp": said(mean),
        "text": _short(one.response),
    }


def _prompt(one: Rollout) -> list[tuple[str, str]]:
    """Return a prompt as (role, text); a text has no role."""
    if isinstance(one.prompt, str):
        return [("", _short(one.prompt))]
    return [(turn.role, _short(text_of_turn(turn))) for turn in one.prompt]


def _short(text: str) -> str:
    text = writable(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value in (None, "", "auto") else str(value)
