"""`tokenq.examine`: is a training run healthy, is its curve normal, and what to change where it is not."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import PreTrainedTokenizerBase

from tokenq.doctor.config import DoctorConfig
from tokenq.doctor.doctor import CHECKS, diagnose, healthy
from tokenq.doctor.finding import Finding
from tokenq.files import write_json
from tokenq.jobs.doctor.material import Material, material_of
from tokenq.jobs.doctor.writer import writer_findings
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import InMemory, Name, settings_given
from tokenq.jobs.inputs import RowsInMemory as DataRows
from tokenq.jobs.outputs import claimed
from tokenq.jobs.run import Rows, Run
from tokenq.listener import SILENCE, Listener
from tokenq.report.doctor_page import write_doctor_page
from tokenq.rollout.writer_diagnosis import SAID
from tokenq.rundir import provenance

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Examination:
    """The result of an examination.

    Attributes:
        findings: the worst first.
        material: what was looked at.
        settings: what was asked for.
    """

    findings: Sequence[Finding]
    material: Material = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def healthy(self) -> bool:
        """Whether nothing is worse than a note."""
        return healthy(self.findings)

    @property
    def checks(self) -> Sequence[str]:
        """What was asked: the names of checks of a run, or of faults of a writer."""
        return list(CHECKS if self.settings["writer"] is None else SAID)

    @property
    def unseen(self) -> Sequence[str]:
        """The parts of the run that could not be looked at, and why."""
        return self.material.unseen

    @property
    def numbers(self) -> Mapping[str, Mapping[str, float | str]]:
        """The numbers behind each finding, by its name."""
        return {one.name: {evidence.what: evidence.value for evidence in one.evidence} for one in self.findings}

    @property
    def tables(self) -> Mapping[str, Rows]:
        """The findings, a row each."""
        rows = [
            {
                "severity": one.severity,
                "finding": one.name,
                "found": one.found,
                "evidence": "\n".join(evidence.line() for evidence in one.evidence),
                "what to change": one.change,
            }
            for one in self.findings
        ]
        return {"findings": Rows(rows)}

    def to_frame(self) -> "DataFrame":
        """Return the findings as a pandas frame.

        Raises:
            UserError: pandas is not installed.
        """
        return self.tables["findings"].to_frame()

    def html(self, path: Name) -> Path:
        """Write the page with findings and curves, which opens from disk, and return its file."""
        seen = self.material
        write_doctor_page(Path(path), self.findings, seen.record, seen.unseen, self._record())
        return Path(path)

    def save(self, path: Name) -> Path:
        """Write the findings as JSON, with where they come from, and return the file."""
        found = {
            "made_by": "tokenq doctor",
            "examined": self.material.record.path,
            "findings": [finding.to_dict() for finding in self.findings],
            "checks": list(self.checks),
            "unseen": list(self.unseen),
        }
        write_json(Path(path), self._record() | found)
        return Path(path)

    def _record(self) -> dict[str, Any]:
        return provenance(dict(self.settings), self.settings["seed"], self.material.identities)

    def _repr_html_(self) -> str:
        """Return the findings as a table; notebooks ask for this by this name."""
        table = str(self.to_frame().to_html(index=False)) if self.findings else "<p>nothing found</p>"
        return table + "".join(f"<p>not looked at: {escape(what)}</p>" for what in self.unseen)


def examine(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    run: Name | Run | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listener: Listener = SILENCE,
    policy: Name | InMemory | None = None,
    reference: Name | InMemory | None = None,
    base: str | None = None,
    writer: str | None = None,
    writer_model: str | None = None,
    data: Name | DataRows = (),
    depth: Literal["record", "data", "models"] = "models",
    answer_prompts: int = 0,
    max_new_tokens: int | None = None,
    rows: int = 256,
    beta: float | None = None,
    unit: Literal["pairs", "responses"] = "pairs",
    columns: Mapping[str, str] = {},
    style: Literal["as_given", "chat"] = "as_given",
    max_length: int = 1024,
    output: Name | None = None,
    html: Name | None = None,
    overwrite: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    attention: Literal["auto", "flex", "segments", "plain", "full"] = "auto",
    tokens_per_batch: int = 4096,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> Examination:
    """Examine a training run, or a policy with its reference and data, and return what was found.

    The settings are those of `tokenq doctor` (`tokenq doctor --help` has a line each). Models and data may be in
    memory: a loaded model, (model, tokenizer), a `datasets.Dataset`, a pandas frame or a list of dictionaries.

    Args:
        run: a run of `tokenq.train`, or its folder, finished or not.
        tokenizer: of a loaded model.
        listener: told what is being done.

    Raises:
        UserError: there is no run, or a model or a file cannot be read.
    """
    given, in_memory, held = settings_given(locals(), "data", ("listener",))
    config = DoctorConfig(**given)
    config.check()
    files = [Path(name) for name in (config.output, config.html) if name is not None]
    with untouched(), claimed("tokenq doctor", files, overwrite=config.overwrite):
        if config.writer is not None:
            material, findings = writer_findings(config, in_memory, held, listener)
        else:
            material = material_of(config, in_memory, held, listener)
            findings = diagnose(material.record)
        found = Examination(findings, material, asdict(config))
        if config.output is not None:
            found.save(config.output)
        if config.html is not None:
            listener.say(f"page: {found.html(config.html)}")
    return found
