"""The demonstration with a model and preferences of the user's: the same stages, judged by held-out pairs.

There is no true reward here. Held-out pairs say how often what was chosen is preferred; what searches find is judged by
a reward model or a judge where one is named, and else only measured.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenq.data.examples import read_examples
from tokenq.data.files.source_language import parse_source
from tokenq.data.sources import hold_out, load_examples, read_rows
from tokenq.demo.config import DemoConfig
from tokenq.demo.stages import Stages
from tokenq.demo.steps import EVALUATIONS, DemoReport, searched, settings, trained, training
from tokenq.errors import UserError
from tokenq.evaluation.task_preference import as_pairs, preference
from tokenq.figures.credit import Errors, credit
from tokenq.figures.drift import Training, likelihood
from tokenq.figures.exact import exact_credit, exact_drift, exact_search
from tokenq.figures.searches import Sweep, searches
from tokenq.figures.section import HeatMap, Link, Section
from tokenq.files import write_json_lines
from tokenq.jobs.evaluate import evaluate
from tokenq.records.examples import Example, Text
from tokenq.records.results import Candidate, SearchResult
from tokenq.report.html import write_page
from tokenq.report.outcome import tables
from tokenq.rundir import provenance
from tokenq.stats.outcome import Table
from tokenq.terminal.console import screen
from tokenq.terminal.progress import Progress

OWN_WORD = "implicit reward (the policy's own word)"


def run_own(config: DemoConfig, stages: Stages) -> DemoReport:
    """Run the demonstration, and return what it came to."""
    folder = Path(config.output)
    with stages("read the preferences"):
        pairs, held_out, kept = _data(config)
    shared = _shared(config, held_out, len(pairs_of(pairs)))
    with stages("learn from preferences (DPO)"):
        trained(folder / "dpo", model=str(config.model), data=(str(pairs),), **shared)
    with stages("learn from the chosen responses (SFT)"):
        chosen = trained(folder / "chosen_sft", model=str(config.model), data=(str(pairs),), **_sft(config))
    with stages("learn from preferences (DPO) after that"):
        trained(folder / "chosen_dpo", model=str(chosen), data=(str(pairs),), **shared)
    with stages("read token by token"):
        without, after = (
            training(name, folder / run, held_out, drawn=False, device=config.device)
            for name, run in (("without SFT on chosen", "dpo"), ("after SFT on chosen", "chosen_dpo"))
        )
        read = [_credit(folder, after, kept), likelihood(without, after, exact=exact_drift())]
    with stages("search"):
        search = _search(config, folder, kept[: config.prompts])
    return DemoReport([read[0], search, read[1]], [_accuracies(one) for one in (without, after)])


def pairs_of(path: Path) -> list[str]:
    """Return the lines of a file of pairs."""
    return path.read_text(encoding="utf-8").splitlines()


def _data(config: DemoConfig) -> tuple[Path, Path, list[dict[str, Any]]]:
    """Write the pairs to train on and those held out, and return both files and the held-out rows."""

    def read(rows: Sequence[Any]) -> Any:
        return read_examples(rows, columns=config.columns, bad_rows="drop", style=config.style)

    found = load_examples(config.data, read, seed=config.seed).examples
    if len(found) <= config.held_out:
        raise UserError(
            f"{len(found)} usable pairs are too few to hold {config.held_out} of them out.", "Lower --held-out."
        )
    rest, held_out = hold_out(found, config.held_out, seed=config.seed)
    marks = _marks(config)
    files = []
    for name, examples in (("pairs", rest[: config.pairs]), ("held_out", held_out)):
        rows = [_row(example) | marks.get(example.where, {}) for example in examples]
        write_json_lines(Path(config.output) / "data" / f"{name}.jsonl", rows)
        files.append(rows)
    folder = Path(config.output) / "data"
    return folder / "pairs.jsonl", folder / "held_out.jsonl", files[1]


def _marks(config: DemoConfig) -> dict[str, dict[str, Any]]:
    """Return the wrong stretches by the row that has them."""
    if config.errors is None:
        return {}
    rows = [row for source in config.data for row in read_rows(parse_source(source)) if not row.fault]
    missing = next((row for row in rows if config.errors not in row.values), None)
    if missing is not None:
        raise UserError(f"{missing.where} has no column {config.errors!r}.", "Name the column of wrong stretches.")
    return {row.where: {"errors": row.values[config.errors]} for row in rows}


def _row(example: Example) -> dict[str, Any]:
    chosen, rejected = example.responses
    return {
        "prompt": _plain(example.prompt),
        "chosen": _plain(chosen.content),
        "rejected": _plain(rejected.content),
    }


def _plain(text: Text) -> Any:
    return text if isinstance(text, str) else [message.to_dict() for message in text]


def _sft(config: DemoConfig) -> dict[str, Any]:
    return {
        "loss": "sft",
        "learning_rate": config.sft_learning_rate,
        "batch_size": config.batch_size,
        "lora_rank": config.lora_rank,
        "schedule": "cosine",
        "warmup_ratio": 0.05,
        "max_length": config.max_length,
        "seed": config.seed,
        "device": config.device,
        "dtype": config.dtype,
    }


def _shared(config: DemoConfig, held_out: Path, pairs: int) -> dict[str, Any]:
    steps = -(-pairs // config.batch_size)
    return _sft(config) | {
        "loss": "dpo",
        "beta": config.beta,
        "learning_rate": config.learning_rate,
        "warmup_ratio": 0.1,
        "eval_data": (str(held_out),),
        "eval_steps": max(1, steps // EVALUATIONS),
        "reference_store": str(Path(config.output) / "reference"),
    }


def _accuracies(of: Training) -> Table:
    table = preference(of.traces).tables[0]
    return Table(f"held-out pairs, {of.name}: {table.title}", table.head, table.rows, table.note)


def _credit(folder: Path, after: Training, rows: Sequence[dict[str, Any]]) -> Section:
    """Return the figure of credit: labelled errors where the data has them, and a pair to look at."""
    kinds = []
    if rows and "errors" in rows[0]:
        pairs = [(row, rejected) for row, (_, _, rejected) in zip(rows, as_pairs(after.traces), strict=True)]
        marked = [(trace, [(int(a), int(b)) for a, b in row["errors"]]) for row, trace in pairs if row["errors"]]
        kinds = [Errors("labelled errors", [t for t, _ in marked], [w for _, w in marked], [t.id for t, _ in marked])]
    _, chosen, rejected = as_pairs(after.traces)[0]
    wrong = kinds[0].stretches[0] if kinds and kinds[0].traces and kinds[0].traces[0] is rejected else ()
    heat = [HeatMap("A chosen response", chosen), HeatMap("The rejected one", rejected, wrong)]
    page = Link("heat maps: held-out pairs", "held_out.html")
    made = provenance({"data": [str(folder / "data")]}, 0, {})
    write_page(folder / "report" / page.path, after.traces[:60], "held-out pairs", made)
    return credit(kinds, heat, exact=exact_credit(), links=[page])


def _search(config: DemoConfig, folder: Path, rows: Sequence[dict[str, Any]]) -> Section:
    prompts = folder / "data" / "test.jsonl"
    write_json_lines(prompts, ({"id": str(i), "prompt": row["prompt"]} for i, row in enumerate(rows, 1)))
    output = folder / "search"
    points = searched(
        output,
        settings((1, 2, 5), (2, 4), (4,)),
        None if config.reward_model else _own_word(config.beta),
        run=str(folder / "chosen_dpo"),
        prompts=[str(prompts)],
        pool=4,
        reward_model=config.reward_model,
        max_new_tokens=config.max_new_tokens,
        device=config.device,
        seed=config.seed,
    )
    links = []
    if config.judge is not None:
        links = [Link("win rate of five beams over greedy decoding, by the judge", "win_rate.html")]
        results = {name: output / "results" / file for name, file in _COMPARED}
        with Progress(1) as progress:
            won = evaluate(
                "win-rate",
                results=results,
                judge=config.judge,
                output=folder / "win_rate.json",
                html=folder / "report" / links[0].path,
                answers=folder / "judge-answers.jsonl",
                seed=config.seed,
                listener=progress,
            )
        screen().print(*tables(won.outcome.tables))
    name = Path(str(config.model)).name
    judged = config.reward_model is not None
    return searches([Sweep(name, points, "reward" if judged else OWN_WORD, judged)], exact=exact_search(), links=links)


_COMPARED = (("beams", "beam,width=5.jsonl"), ("greedy", "greedy.jsonl"))


def _own_word(beta: float) -> Any:
    def quality(_: SearchResult, candidate: Candidate) -> float:
        ref_logps = candidate.ref_logps or (0.0,) * len(candidate.logps)
        return beta * (sum(candidate.logps) - sum(ref_logps))

    return quality
