"""What a page is about: the command that made it, the models and data that it speaks of, β, date and version."""

import shlex
from collections.abc import Mapping
from typing import Any

DATA = ("data", "prompts", "traces", "results", "preferences", "runs", "run", "eval_data")
"""Fields of configurations that name what was read."""


def origin(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a page says of where it comes from, as (name, text); nothing without a record.

    Args:
        record: provenance, as `tokenq.rundir.provenance` gives it, perhaps with "beta".
    """
    if not record:
        return []
    config = record.get("config") or {}
    told = {"command": shlex.join(map(str, record.get("command") or ()))}
    told |= {name: str(one["path"]) for name, one in record.items() if isinstance(one, Mapping) and one.get("path")}
    told |= {_words(name): str(config[name]) for name in ("reward_model", "judge") if config.get(name)}
    told |= {name: text for name in DATA if (text := _listed(config.get(name)))}
    read = record.get("data")
    told["data"] = told.get("data") or (_listed(read.get("sources")) if isinstance(read, Mapping) else "")
    beta = config.get("beta") if record.get("beta") is None else record["beta"]
    told |= {"β": "" if beta is None else f"{beta:g}", "date": str(record.get("started", "")).replace("T", " ")[:16]}
    told["tokenq"] = str((record.get("versions") or {}).get("tokenq", ""))
    return [(name, text) for name, text in told.items() if text]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _listed(value: Any) -> str:
    """Return names of files or folders in a line; "" for what is none, such as a number of prompts."""
    if isinstance(value, str):
        return value
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else ""
