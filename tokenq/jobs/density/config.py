"""What `tokenq densify` may be asked for; flags, YAML keys and Python arguments have these names. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tokenq.errors import UserError
from tokenq.options import DeviceOptions
from tokenq.ranges import Range, check_ranges
from tokenq.rollout.sync import LOCAL, WriterAddress, refuse_address


@dataclass(frozen=True)
class DensifyConfig(DeviceOptions, WriterAddress):
    """Summarise articles in steps of equal length that say more and more: chains of density (arXiv 2309.04269)."""

    policy: str | None = None
    """Model that writes in this process: a folder, a hub id, the folder of an adapter, or a .gguf file."""
    run: str | None = None
    """Folder of a finished training run whose policy writes."""
    base: str | None = None
    """Base model of an adapter, instead of the one that it names."""
    writer: str = LOCAL
    """Who writes: local (the --policy), or the address of an OpenAI-compatible server: --writer http://localhost:8000."""
    writer_api: Literal["chat", "completions"] = "chat"
    """How a --writer is asked: with a user's turn, or with a text that it goes on with."""
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto"
    """How tokens go through the model; auto takes the fastest way that proves exact."""
    trust_remote_code: bool = False
    """Run Python code that a model brings along. Only for models whose authors you trust."""

    articles: Sequence[str] = ()
    """Files of articles: a column article, document or text; a column prompt, where there is one, is kept for training
    on the chains."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns under other names: --columns article=body (tokenq's name first)."""
    bad_rows: Literal["error", "drop"] = "error"
    """What to do with a row without an article: stop, or leave it out and count it."""

    form: Literal["chain", "steps", "guided"] = "chain"
    """How a chain is asked for: in one answer, as the paper does; in steps, for small models: what is missing, then a
    summary with it; or guided: --entities says what is missing, the writer puts it in."""
    prompt_file: str | None = None
    """File with the question of --form chain, instead of tokenq's own (recipes/prompts/chain_of_density.txt)."""
    steps: int = 5
    """Summaries of a chain."""
    words: int = 80
    """Words that every summary shall have."""
    same_length: float = 0.05
    """By what share of --words a summary may miss them and still count as of that length."""
    attempts: int = 1
    """How often something is asked for at most, where an answer cannot be read or misses the length; the best is kept.
    Takes a --temperature above 0."""
    entities: str = "rules"
    """What finds entities: rules, spacy:MODEL (a spaCy model that is installed), or FILE.py:FUNCTION (a text → (start,
    end) of each)."""

    max_new_tokens: int | None = None
    """Maximum number of tokens in an answer. Default: three for each word that is asked for, and room for JSON."""
    temperature: float = 0.7
    """Temperature of samples; 0 takes the likeliest token."""
    top_p: float = 0.95
    """Draw from the likeliest tokens only that together have this probability."""
    eos: Sequence[str] = ()
    r"""Further ends of an answer, as text; each one token where a policy writes here: --eos '\n'."""
    batch_size: int = 8
    """Articles that are summarised side by side. Affects memory and speed, and what a kill may lose."""
    seed: int = 0
    """Seed of everything that is drawn."""

    output: str | None = None
    """File of chains, a line an article: .jsonl."""
    overwrite: bool = False
    """Replace a file that this command did not write."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)
        refuse_address(self)
        here = self.policy is not None or self.run is not None
        if here == (self.writer != LOCAL) or (self.policy is not None and self.run is not None):
            raise UserError("There is nobody to write, or two.", "Give one of --policy, --run and --writer http://….")
        if not self.articles:
            raise UserError("--articles is missing.", "Name a file with a column article.")
        if self.output is not None and Path(self.output).suffix != ".jsonl":
            raise UserError(f"--output {self.output}: chains are lines of JSON.", "Name it .jsonl.")
        if self.attempts > 1 and self.temperature == 0:
            raise UserError("--attempts draws anew, and at --temperature 0 nothing is drawn.", "Raise --temperature.")
        if self.prompt_file is not None and self.form != "chain":
            raise UserError(f"--prompt-file is the question of --form chain, and the form is {self.form}.", "Drop it.")

    @property
    def most_tokens(self) -> int:
        """The maximum number of tokens in an answer."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return (3 * self.words + 60) * (self.steps if self.form == "chain" else 1)


RANGES = (
    Range(("steps",), least=2, most=50),
    Range(("words",), least=5, most=2_000),
    Range(("same_length",), least=0, below=10),
    Range(("attempts",), least=1, most=100),
)

SECTIONS = {
    "dtype": "who writes",
    "writer": "who writes",
    "policy": "who writes",
    "articles": "what is summarised",
    "form": "the chain",
    "max_new_tokens": "how it is written",
    "output": "what comes out",
}
SPELT_ELSEWHERE = {"data": "articles", "prompts": "articles", "model": "policy", "input": "articles"}
