"""What an evaluation is given in memory, in place of names: models, rows, traces, answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeGuard

from tokenq.data.sources import Data
from tokenq.jobs.inputs import data_given, models_given
from tokenq.jobs.run import Run
from tokenq.records.results import SearchResult
from tokenq.records.traces import TokenTrace

if TYPE_CHECKING:
    from tokenq.jobs.reader import Reader
    from tokenq.models.loaded import Loaded


@dataclass(frozen=True)
class Given:
    """What is in memory of what a configuration names.

    Attributes:
        models: by their role.
        reader: models that are ready to read.
        data: sources or rows, by the name of their setting: "data", "prompts", "preferences".
        traces: of an earlier scoring.
        results: what systems answered, by name.
    """

    models: Mapping[str, "Loaded"] = field(default_factory=dict)
    reader: "Reader | None" = None
    data: Mapping[str, Data] = field(default_factory=dict)
    traces: Sequence[TokenTrace] | None = None
    results: Mapping[str, Sequence[SearchResult]] = field(default_factory=dict)


def given_of(settings: Mapping[str, Any], tokenizer: Any) -> tuple[dict[str, Any], Given]:
    """Return the settings as a configuration has them, and what of them is in memory.

    Args:
        settings: names, or what they would stand for.
        tokenizer: of loaded models that come without one.

    Raises:
        UserError: something is neither a name nor what could be read from one.
    """
    named, data = dict(settings), {}
    reader = models = None
    policy, traces, results = (settings.get(name) for name in ("policy", "traces", "results"))
    if isinstance(policy, Run):
        named |= {"policy": None, "run": policy}
    elif policy is not None and _is_reader(policy):
        reader = policy
        own, other = policy.identities
        named |= {"policy": own.get("path", policy.title), "reference": other.get("path")}
    elif policy is not None or settings.get("reference") is not None:
        names, models = models_given({"policy": policy, "reference": settings.get("reference")}, tokenizer)
        named |= names
    for name in ("data", "prompts"):
        if name in settings:
            named[name], data[name] = data_given(settings[name])
    if settings.get("preferences") is not None:
        (named["preferences"], *_), data["preferences"] = data_given(settings["preferences"])
    if traces is not None and not _is_name(traces):
        traces = list(traces)
        named["traces"] = "traces in memory"
    answered: dict[str, Sequence[SearchResult]] = {}
    if isinstance(results, Mapping):
        answered = {name: one for name, one in results.items() if not _is_name(one)}
        named["results"] = [name if name in answered else f"{name}={fspath(one)}" for name, one in results.items()]
    named = {name: _written(value) for name, value in named.items()}
    return named, Given(models or {}, reader, data, None if _is_name(traces) else traces, answered)


def _is_reader(value: Any) -> TypeGuard["Reader"]:
    if _is_name(value):
        return False
    from tokenq.jobs.reader import Reader

    return isinstance(value, Reader)


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str | PathLike)


def _written(value: Any) -> Any:
    """Return a path as it is written."""
    return fspath(value) if isinstance(value, PathLike) else value
