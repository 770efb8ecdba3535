"""Paths as they are recorded: absolute, so that a run can be read from any directory; hub ids stay what they are."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenq.data.files.local import STANDARD_INPUT
from tokenq.data.files.source_language import is_pattern, parse_source
from tokenq.training.config import TrainConfig

_PATHS = (
    *("model", "image_model", "reference", "adapter", "base"),
    *("chat_template", "token_traces", "reference_store"),
)
"""Fields that name a file or folder where there is one of that name, and something else otherwise."""


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Return the settings with every path that exists made absolute, and the output, which need not exist."""
    given = {name: getattr(config, name) for name in _PATHS}
    found: dict[str, Any] = {name: absolute(str(value)) for name, value in given.items() if value is not None}
    if config.reference_store not in (None, "off"):
        found["reference_store"] = _path(str(config.reference_store))
    found |= {name: [absolute_source(text) for text in getattr(config, name)] for name in ("data", "eval_data")}
    return replace(config, **found, output=_path(config.output))


def absolute(text: str) -> str:
    """Return the path of what exists; anything else, such as a hub id, as it is."""
    return _path(text) if Path(text).expanduser().exists() else text


def absolute_source(text: str) -> str:
    """Return a `--data` string with its location absolute where it is a path or a pattern of paths."""
    location = parse_source(text).location
    if location in STANDARD_INPUT or not (Path(location).expanduser().exists() or is_pattern(location)):
        return text
    _, found, tail = text.partition(location)
    return _path(location) + tail if found else text


def _path(text: str) -> str:
    return os.path.abspath(Path(text).expanduser())
