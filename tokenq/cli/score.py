"""`tokenq score`: read a policy against its reference, token by token, and write what they say as traces."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenq.cli.outputs import claims
from tokenq.errors import UserError
from tokenq.ranges import check_ranges

if TYPE_CHECKING:
    from rich.console import Console

    from tokenq.data.examples import ReadResult
    from tokenq.data.files.local import Row
    from tokenq.data.summary import DataSummary
    from tokenq.score.trace import Row as ScoredRow
    from tokenq.session import Session
    from tokenq.traces import TokenTrace


@dataclass(frozen=True)
class ScoreConfig:
    """Read a policy against its reference: which tokens the training rewarded, and where it sees the mistake."""

    policy: str | None = None
    """Policy: a folder, a hub id, or the folder of an adapter."""
    reference: str | None = None
    """Reference. Default: for an adapter its base, for --run what the run was trained against."""
    run: str | None = None
    """Folder of a finished training run: takes policy, reference and beta from it."""
    base: str | None = None
    """Base model of an adapter, instead of the one that it names: where that has moved, or is on another machine."""
    beta: float | None = None
    """KL temperature of implicit rewards. Default: that of --run, else 0.1."""
    reward_model: str | None = None
    """A sequence classifier that is read at every token, alone or beside a policy with the same tokens."""
    reward_weights: Mapping[str, str] = field(default_factory=dict)
    """Weights of the outputs of a --reward-model with several: --reward-weights helpfulness=0.65 correctness=0.8."""

    data: Sequence[str] = ()
    """Rows to score, in every form that tokenq train reads: pairs, responses, conversations, steps."""
    prompt: str | None = field(default=None, metadata={"text": True})
    """Prompt of one text to score, with --response."""
    response: str | None = field(default=None, metadata={"text": True})
    """Response to score."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns under other names: --columns chosen=good rejected=bad (tokenq's name first)."""
    bad_rows: Literal["error", "drop"] = "error"
    """What to do with a row that cannot be used: stop, or leave it out and count it."""
    style: Literal["as_given", "chat"] = "as_given"
    """Take text as it is, or make chat turns of it."""
    max_length: int | None = None
    """Most tokens of prompt and response; longer responses are cut and said not to be terminal."""

    output: str | None = None
    """File of traces: .jsonl or .parquet, one trace a response."""
    html: str | None = None
    """Page to look at them: one file, opens from disk."""
    figure: str | None = None
    """Picture of the first response: .svg, .png or .pdf."""
    overwrite: bool = False
    """Replace files that this command did not write."""
    levels: Sequence[str] = ("word", "sentence")
    """Levels of spans: word, sentence, line, paragraph, step, turn, regex:PATTERN."""
    top_k: int = 5
    """Alternatives kept at every token, under each model."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto takes the checkpoint's."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto"
    """How batches go through a model; auto takes the fastest way that proves exact."""
    tokens_per_batch: int = 4096
    """Most tokens in one forward pass. Sets memory and speed, never the result."""
    trust_remote_code: bool = False
    """Run Python code that a model brings along. Only for models whose authors you trust."""
    seed: int = 0
    """Seed of the sample that a weighted source gives."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self)
        single = self.prompt is not None or self.response is not None
        if single and (self.prompt is None or self.response is None):
            raise UserError(
                "--prompt and --response belong together, and one of them is missing.", "Give both, or --data FILE."
            )
        if single == bool(self.data):
            raise UserError("There is nothing to score, or too much.", "Give --data, or --prompt and --response.")
        alone = self.policy is None and self.run is None
        if (self.policy is not None and self.run is not None) or (alone and self.reward_model is None):
            raise UserError("Give either --policy or --run.", "--run takes the models of a finished training run.")
        if self.reward_weights and self.reward_model is None:
            raise UserError("--reward-weights is given, and no --reward-model.", "Name the model that they belong to.")
        if self.data and self.output is None and self.html is None and self.figure is None:
            raise UserError("--output is missing.", "Name a file for the traces: --output traces.jsonl.")
        if self.output is not None and Path(self.output).suffix not in (".jsonl", ".parquet"):
            raise UserError(f"--output {self.output}: the form is not known.", "Name it .jsonl or .parquet.")


def _unambiguous(rows: "Sequence[Row]") -> "Sequence[Row]":
    """Return the rows; one that holds both a pair and a single response is a bad row."""
    from tokenq.data.turns import BadRow

    def judged(row: "Row") -> "Row":
        single = sorted({"response", "completion"}.intersection(row.values))
        if not single or "chosen" not in row.values:
            return row
        said = f"it has both {single[0]!r} and 'chosen'"
        return replace(
            row, fault=BadRow("a pair and a response", said, "Score one of the two: remove the other column.")
        )

    return [judged(row) for row in rows]


SECTIONS = {"policy": "models", "data": "what to score", "output": "what comes out", "dtype": "how"}


@claims("tokenq score")
def run(config: ScoreConfig) -> int:
    """Score what `config` says, and return 0.

    Raises:
        UserError: for anything that the user can mend.
    """
    from accelerate import PartialState

    from tokenq.cli.scoring import score_to_file
    from tokenq.terminal.console import messages
    from tokenq.traces import read_traces

    config.check()
    state = PartialState(cpu=config.device == "cpu")
    say = messages(quiet=not state.is_main_process)
    session = session_of(config, str(state.device), say)
    rows, summary = rows_of(config, session)
    if config.data:
        say.print(f"data: {summary.line()}")
    if config.output is None:
        traces = [trace for row in session.traces(rows) for trace in row]
    else:
        score_to_file(Path(config.output), session, rows, asdict(config), say)
        shown = config.prompt is not None or config.html is not None or config.figure is not None
        traces = list(read_traces(Path(config.output))) if shown and state.is_main_process else []
    if state.is_main_process:
        _show(config, traces, session, say)
    return 0


def session_of(config: ScoreConfig, device: str, say: "Console") -> "Session":
    """Return the models that the configuration names."""
    from tokenq.session import Options, load, load_rewards, models_of_run

    options = Options(
        beta=config.beta or 0.1,
        dtype=config.dtype,
        device=device if config.device == "auto" else config.device,
        attention=config.attention,
        trust_remote_code=config.trust_remote_code,
        top_k=config.top_k,
        levels=config.levels,
        max_length=config.max_length,
        tokens_per_batch=config.tokens_per_batch,
        base=config.base,
    )
    policy = None if config.policy is None else options.spec(config.policy)
    reference = None if config.reference is None else options.spec(config.reference)
    if config.run is not None:
        made = models_of_run(config.run, options.spec(config.run))
        policy, reference = made.policy, reference or made.reference
        options = replace(options, beta=config.beta or made.beta or 0.1)

    def warn(text: str) -> None:
        say.print(f"warning: {text}")

    session = None if policy is None else load(policy, reference, options, warn)
    if config.reward_model is not None:
        return load_rewards(config.reward_model, config.reward_weights, options, warn, session)
    if session is None:
        raise UserError("Nothing is to read.", "Give --policy, --run or --reward-model.")
    return session


def rows_of(config: ScoreConfig, session: "Session") -> "tuple[list[ScoredRow], DataSummary]":
    """Return what is to be scored in the session's tokens, and what became of all rows.

    Raises:
        UserError: a row cannot be used, and is not to be left out; the first in the order of the data is named.
    """
    from tokenq.data.bad_rows import first_named

    with first_named(session.rows):
        found = examples_of(config, session)
    rows, summary = session.rows(found.examples, config.bad_rows)
    dropped = found.dropped + Counter(summary.dropped)
    return rows, replace(summary, rows=found.rows, dropped=dict(dropped.most_common()))


def examples_of(config: ScoreConfig, session: "Session") -> "ReadResult":
    """Return what is to be scored, and what was left out."""
    from functools import partial

    from tokenq.data.examples import ReadResult, read_examples
    from tokenq.data.sources import load_examples
    from tokenq.terminal.console import messages

    if config.prompt is not None and config.response is not None:
        return ReadResult([session.example(config.prompt, config.response)], 1, Counter())
    read = partial(read_examples, want="all", columns=config.columns, bad_rows=config.bad_rows, style=config.style)
    found = load_examples(config.data, lambda rows: read(_unambiguous(rows)), seed=config.seed)
    for note in found.notes:
        messages().print(f"data: {note}")
    return found


def _show(config: ScoreConfig, traces: "list[TokenTrace]", session: "Session", say: "Console") -> None:
    """Show the traces wherever the configuration asks for them."""
    from tokenq.report.html import write_page
    from tokenq.report.plots import save_figure
    from tokenq.report.terminal import card
    from tokenq.terminal.console import screen

    if config.prompt is not None:
        screen(None).print(*map(card, traces))
    if config.figure is not None:
        save_figure(Path(config.figure), traces[0])
        say.print(f"figure: {config.figure}")
    if config.html is not None:
        write_page(Path(config.html), traces, _title(session), _record(config, session))
        say.print(f"page: {config.html}")


def _record(config: ScoreConfig, session: "Session") -> dict[str, Any]:
    """Return where the traces come from."""
    from tokenq.rundir import provenance

    own, other = session.identities
    read: dict[str, Any] = {"policy": own, "reference": other} if own else {}
    read |= {} if session.rewards is None else {"reward_model": session.rewards.identity}
    beta = {"beta": session.options.beta} if own else {}
    return provenance(asdict(config), config.seed, read) | beta


def _title(session: "Session") -> str:
    """Return what a page is called: after the models that have read."""
    own, other = session.identities
    judge = [] if session.rewards is None else [str(session.rewards.identity["path"])]
    read = [f"{own['path']} against {other['path']}"] if own else []
    return ", ".join([*read, *judge])
