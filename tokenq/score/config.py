"""What a scoring may be asked for; flags, YAML keys and Python arguments have these names. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tokenq.errors import UserError
from tokenq.ranges import check_ranges


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
        if self.output is not None and Path(self.output).suffix not in (".jsonl", ".parquet"):
            raise UserError(f"--output {self.output}: the form is not known.", "Name it .jsonl or .parquet.")

    def check_command(self) -> None:
        """Refuse what a command cannot do: as `check`, and many rows with nothing to come of them.

        Raises:
            UserError: names the flags.
        """
        self.check()
        if self.data and self.output is None and self.html is None and self.figure is None:
            raise UserError("--output is missing.", "Name a file for the traces: --output traces.jsonl.")


SECTIONS = {"policy": "models", "data": "what to score", "output": "what comes out", "dtype": "how"}
