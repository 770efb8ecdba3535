"""An online run as one page that grows while it runs: curves over rounds, a table of them, settings and examples.

The page is made of what is on disk, has no script and loads nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenq.data.chat.messages import text_of_turn
from tokenq.data.conditioning.control import with_control
from tokenq.files import JsonLines, write_text
from tokenq.records.rollouts import Rollout
from tokenq.report.doctor_page import HEIGHT, WIDTH
from tokenq.report.offline import offline_page, writable
from tokenq.report.outcome import said, shown_table
from tokenq.report.rounds.figures import figures_of, with_steps
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Cell, Table
from tokenq.training.recorded import read_config, read_metrics, read_provenance

PROMPTS = 4
"""Prompts of a round that are shown with all their responses, and held-out ones."""

LONGEST = 1200
"""Characters of a text that are shown; the files have all of it."""

_COLUMNS = (
    ("reward", "round/reward"),
    ("held-out reward", "eval/reward"),
    ("accuracy", "eval/accuracy"),
    ("success", "round/success"),
    ("held-out success", "eval/success"),
    ("won against the start", "eval/won_start"),
    ("pairs", "round/pairs"),
    ("learnt from", "round/responses"),
    ("prompts with weights", "round/weights"),
    ("effective responses", "round/effective_samples"),
    ("tokens per response", "round/length"),
    ("KL", "round/kl"),
    ("entropy", "round/entropy"),
)
"""Columns of the table: what a round wrote, and what the policy after it does."""

_SETTINGS = (
    *("environment", "environment_options", "environment_seeds", "max_turns", "subtract_luck", "credit_span"),
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
    *("value_learning_rate", "prm_learning_rate", "normalise_values", "filter_accuracy"),
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
    config, lines = read_config(run), with_steps(read_metrics(run))
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
        figures=figures_of(lines, number),
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
    return int(value) if key in ("round/pairs", "round/responses", "round/weights") else float(value)


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
    for line in JsonLines(place / "weights.jsonl").read():
        sides[str(line["id"]), int(line["number"])] = f"weight {said(line['target_weights'][0])}"
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
    prompt = with_control(one.prompt, one.condition)
    if isinstance(prompt, str):
        return [("", _short(prompt))]
    return [(turn.role, _short(text_of_turn(turn))) for turn in prompt]


def _short(text: str) -> str:
    text = writable(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is False or value in (None, "", "auto") else str(value)
