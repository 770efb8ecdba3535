"""`tokenq doctor`: is this run healthy, is this curve normal, and what to change where it is not.

Prints finding, evidence and what to change, and fails when one is worse than a note. What it looks at is gathered in
`tokenq.cli.examination`, what it finds is decided in `tokenq.doctor.doctor`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokenq.errors import UserError
from tokenq.jobs.outputs import claims
from tokenq.ranges import Range, check_ranges

if TYPE_CHECKING:
    from rich.table import Table

    from tokenq.cli.examination import Examined
    from tokenq.doctor.finding import Finding


@dataclass(frozen=True)
class DoctorConfig:
    """Examine a training run, or a policy with its reference and data: is this curve normal, and what to change."""

    run: str | None = None
    """Folder of a run, finished or not."""
    policy: str | None = None
    """Policy without a run: a folder, a hub id, or the folder of an adapter; needs --data."""
    reference: str | None = None
    """Reference of --policy. Default: for an adapter its base; without one only the data is looked at."""
    base: str | None = None
    """Base model of an adapter, instead of the one that it names: where that has moved, or is on another machine."""
    data: Sequence[str] = ()
    """Data of --policy, in every form that tokenq train reads; a run brings its own."""

    depth: Literal["record", "data", "models"] = "models"
    """How far to look: what was recorded, the rows too, or the weights too (loads each model once)."""
    samples: int = 0
    """Prompts that policy and reference answer: shows length, end and repetition of what they write."""
    max_new_tokens: int | None = None
    """Most tokens of such an answer. Default: what 99 % of the responses in the data need."""
    rows: int = 256
    """Most pairs of --data that are scored."""

    beta: float | None = None
    """KL temperature of rewards. Default: that of --run, else 0.1."""
    unit: Literal["pairs", "responses"] = "pairs"
    """What --data is read as: preferences, or demonstrations."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of --data under other names: --columns chosen=good rejected=bad (tokenq's name first)."""
    style: Literal["as_given", "chat"] = "as_given"
    """Take text of --data as it is, or make chat turns of it."""
    max_length: int = 1024
    """Most tokens of prompt and response together, for --data."""

    output: str | None = None
    """JSON file to write the findings to as well."""
    html: str | None = None
    """Page with findings and curves; one file, opens from disk."""
    overwrite: bool = False
    """Replace files that this command did not write."""

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
    """Seed of the samples."""

    def check(self) -> None:
        """Refuse what cannot be meant together.

        Raises:
            UserError: names the flags.
        """
        check_ranges(self, RANGES)
        if (self.run is None) == (self.policy is None):
            raise UserError("Give either --run or --policy.", "tokenq doctor --run RUN examines a training run.")
        if self.run is not None and (self.data or self.reference or self.columns):
            raise UserError("--run brings its own data and reference.", "Leave out --data, --reference and --columns.")
        if self.policy is not None and not self.data:
            raise UserError("--policy without --data: there is nothing to look at.", "Name the data it was trained on.")
        if self.samples and self.depth != "models":
            raise UserError(f"--samples needs the models, and --depth is {self.depth}.", "Leave --depth out.")


RANGES = (Range(("samples",), least=0, most=100_000), Range(("rows",), least=1, most=2**31 - 1))
"""What numbers of an examination may be, beside those that all configurations share."""

SECTIONS = {"run": "what to examine", "depth": "how far", "beta": "how data is read", "output": "what comes out"}
SECTIONS |= {"dtype": "how"}

SPELT_ELSEWHERE = {"model": "policy", "ref": "reference", "input": "data", "limit": "rows", "page": "html"}

_WIDTH = 190
"""Columns of the table where no terminal says how wide it is."""

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


@claims("tokenq doctor")
def run(config: DoctorConfig) -> int:
    """Examine what `config` names, print what was found, and return the exit code: 1 where it is worse than a note.

    Raises:
        UserError: there is no run, or a model or a file cannot be read.
    """
    from tokenq.cli.examination import examine
    from tokenq.doctor.doctor import CHECKS, diagnose, healthy
    from tokenq.terminal.console import messages, screen

    config.check()
    say = messages()
    seen = examine(config, say)
    findings = diagnose(seen.record)
    console = screen(_WIDTH)
    if findings:
        console.print(_table(findings))
    for what in seen.unseen:
        console.print(f"not looked at: {what}")
    console.print(f"{seen.record.path}: {_counts(findings)} from {len(CHECKS)} checks.")
    if config.output is not None:
        _write(Path(config.output), config, seen, findings)
    if config.html is not None:
        from tokenq.report.doctor_page import write_doctor_page
        from tokenq.rundir import provenance

        made = provenance(asdict(config), config.seed, seen.identities)
        write_doctor_page(Path(config.html), findings, seen.record, seen.unseen, made)
        say.print(f"page: {config.html}")
    return 0 if healthy(findings) else 1


def _table(findings: "Sequence[Finding]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("", "finding", "evidence", "what to change", show_lines=True)
    table.columns[0].no_wrap = True
    for finding in findings:
        style = _STYLES[finding.severity]
        found = Text.assemble((finding.name, style), "\n", finding.found)
        evidence = Text("\n".join(one.line() for one in finding.evidence))
        table.add_row(Text(finding.severity, style=style), found, evidence, Text(finding.change))
    return table


def _counts(findings: "Sequence[Finding]") -> str:
    from tokenq.doctor.finding import SEVERITIES

    counts = [(sum(one.severity == severity for one in findings), severity) for severity in SEVERITIES]
    said = [f"{count} {severity}{'s' * (count > 1)}" for count, severity in counts if count]
    return ", ".join(said) or "nothing found"


def _write(path: Path, config: DoctorConfig, seen: "Examined", findings: "Sequence[Finding]") -> None:
    from tokenq.doctor.doctor import CHECKS
    from tokenq.files import write_json
    from tokenq.rundir import provenance

    found = {
        "made_by": "tokenq doctor",
        "examined": seen.record.path,
        "findings": [finding.to_dict() for finding in findings],
        "checks": list(CHECKS),
        "unseen": list(seen.unseen),
    }
    write_json(path, provenance(asdict(config), config.seed, seen.identities) | found)
