"""One run = one directory: the names of its files, how they are written, and where the run came from.

A file is written aside, flushed to the disk and renamed, so a kill or a full disk leaves the old file as it was. This
module refuses to start a second run in a folder that holds one, and never writes an access token. It imports no torch.
"""

import contextlib
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import tokenq
from tokenq.errors import UserError
from tokenq.files import disk_errors, plain, read_json, write_json, write_yaml
from tokenq.leftovers import clear_leftovers
from tokenq.records.schema import SCHEMA
from tokenq.redaction import redact

ACCOUNT = "tokenq_state.json"
"""The last file of a checkpoint: what the others are."""

_PACKAGES = (
    *("accelerate", "datasets", "jaxtyping", "numpy", "peft", "safetensors", "scipy"),
    *("tokenizers", "torch", "transformers"),
)


@dataclass(frozen=True)
class RunDir:
    """The places of one run; docs/artefacts.md says what each holds.

    Attributes:
        path: the directory.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, which `tokenq train --config` reads again."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Seed, versions, command, and the identities of model and data."""
        return self.path / "provenance.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per line, one line an optimiser step."""
        return self.path / "metrics.jsonl"

    @property
    def held_out(self) -> Path:
        """One JSON object a held-out response: what the last evaluation found."""
        return self.path / "held_out.jsonl"

    @property
    def stream(self) -> Path:
        """One JSON object a line: where steps of a stream begin, so that a resumed run reads on from there."""
        return self.path / "stream.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What `--resume` continues from."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step, in the layout of `policy`."""
        return self.checkpoints / f"step-{step}"

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, the first one first."""
        names = (place.parent.name for place in self.checkpoints.glob(f"step-*/{ACCOUNT}"))
        return sorted(int(name.removeprefix("step-")) for name in names if re.fullmatch(r"step-\d+", name))

    @property
    def inputs(self) -> Path:
        """A loaded model and rows in memory, as they were given from Python."""
        return self.path / "inputs"

    @property
    def policy(self) -> Path:
        """The trained policy, in the layout that transformers loads."""
        return self.path / "policy"

    @property
    def image_policy(self) -> Path:
        """The trained image model of a run that trained one behind a refiner, which is `policy`."""
        return self.path / "image_policy"

    @property
    def reward_model(self) -> Path:
        """The trained reward model, where the run trained one and no policy."""
        return self.path / "reward_model"

    def round(self, number: int) -> Path:
        """What a round of an online run wrote, judged and learnt from."""
        return self.path / "rounds" / f"{number:04d}"

    def holds_run(self) -> bool:
        """Return whether a run has left anything here (other files, such as a shell's log, do not count)."""
        return bool(self._traces())

    def _traces(self) -> list[str]:
        written = (self.config, self.provenance, self.metrics, self.held_out, self.checkpoints)
        places = (*written, self.policy, self.reward_model)
        return [place.name for place in places if place.exists()]


def refuse_used(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that holds a run, without touching it: for a check before anything is loaded.

    Raises:
        UserError: `path` holds a run already.
    """
    traces = RunDir(Path(path))._traces()
    if traces:
        raise UserError(
            f"The output folder {path} already holds a run ({', '.join(traces)}).",
            "Continue it with --resume, or choose another --output.",
        )


def create_run(path: str | os.PathLike[str]) -> RunDir:
    """Return a new run directory at `path`.

    Raises:
        UserError: `path` is a file, cannot be made, or holds a run already.
    """
    refuse_used(path)
    return _make(RunDir(Path(path)))


def resume_run(path: str | os.PathLike[str]) -> RunDir:
    """Return the run at `path`, or a new one where there is none yet.

    A job that is restarted by a scheduler can so give `--resume` from the start. A folder whose replacement was killed
    is put back, and what a kill left half-written is removed.
    """
    run = _make(RunDir(Path(path)))
    with disk_errors(run.path):
        for folder in (run.path, run.checkpoints):
            clear_leftovers(folder)
    return run


def write_config(run: RunDir, config: Mapping[str, Any]) -> None:
    """Write the resolved configuration of the run, with access tokens blanked out."""
    write_yaml(run.config, redact(plain(config)))


def provenance(config: Mapping[str, Any], seed: int, identities: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a run, ready for `record_start`.

    Args:
        config: the resolved configuration.
        seed: the seed that the job uses.
        identities: what identifies the inputs, by role: "model", "reference", "data", "device".

    Returns:
        A JSON object (docs/artefacts.md lists its fields). Versions are read without importing the packages; access
        tokens in the command or the configuration are blanked out, and the environment is not recorded.
    """
    return {
        "schema": SCHEMA,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name.replace("__main__.py", "tokenq"), *redact(sys.argv[1:])],
        "seed": seed,
        "versions": {"tokenq": tokenq.__version__, "python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "git": _git(),
        **redact(plain(identities)),
        "config": redact(plain(config)),
        "best": None,
        "resumed": [],
    }


def record_start(run: RunDir, start: dict[str, Any], changed: Mapping[str, tuple[Any, Any]] | None = None) -> None:
    """Write the provenance of a first start, or add a later start to `resumed` of what is there.

    Args:
        run: the run.
        start: its provenance.
        changed: settings that a later start has changed: what they were, and what they are now.
    """
    if not run.provenance.exists():
        write_json(run.provenance, start)
        return
    first = read_json(run.provenance)
    again = {name: start[name] for name in ("started", "command", "versions", "platform", "git")}
    again["changed"] = {name: list(values) for name, values in (changed or {}).items()}
    write_json(run.provenance, {**first, "resumed": [*first["resumed"], again]})


def record_best(run: RunDir, best: Mapping[str, Any]) -> None:
    """Add the best checkpoint of a run to its provenance."""
    write_json(run.provenance, {**read_json(run.provenance), "best": dict(best)})


@functools.cache
def _versions() -> Mapping[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _git() -> dict[str, Any] | None:
    """Return commit and cleanness of the repository that the run was started in, None outside of one."""
    words = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    told = dict(line[2:].split(" ", 1) for line in said if line.startswith("# branch."))
    commit = told.get("branch.oid", "(initial)")
    if commit == "(initial)":  # nothing was committed yet
        return None
    return {"commit": commit, "clean": all(line.startswith("# ") for line in said)}


def _make(run: RunDir) -> RunDir:
    if run.path.exists() and not run.path.is_dir():
        raise UserError(f"The output {run.path} is a file.", "Choose a folder for --output.")
    with disk_errors(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
    return run
