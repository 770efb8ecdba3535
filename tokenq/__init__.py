"""tokenq: train language models from preferences and read them token by token as Q-functions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenq.jobs.compare import compare as compare
    from tokenq.jobs.curation.audit import audit as audit
    from tokenq.jobs.curation.select import select as select
    from tokenq.jobs.density.densify import densify as densify
    from tokenq.jobs.drawing.draw import draw as draw
    from tokenq.jobs.evaluate import evaluate as evaluate
    from tokenq.jobs.examine import examine as examine
    from tokenq.jobs.export import export as export
    from tokenq.jobs.load import load as load
    from tokenq.jobs.playing.play import play as play
    from tokenq.jobs.rollout.online import online as online
    from tokenq.jobs.search import decode as decode
    from tokenq.jobs.train import train as train
    from tokenq.server.serve import serve as serve

__version__ = "0.1.0"

_JOBS = {
    "audit": "tokenq.jobs.curation.audit",
    "compare": "tokenq.jobs.compare",
    "decode": "tokenq.jobs.search",
    "densify": "tokenq.jobs.density.densify",
    "draw": "tokenq.jobs.drawing.draw",
    "evaluate": "tokenq.jobs.evaluate",
    "examine": "tokenq.jobs.examine",
    "export": "tokenq.jobs.export",
    "load": "tokenq.jobs.load",
    "online": "tokenq.jobs.rollout.online",
    "play": "tokenq.jobs.playing.play",
    "select": "tokenq.jobs.curation.select",
    "serve": "tokenq.server.serve",
    "train": "tokenq.jobs.train",
}
"""Functions that are imported when they are asked for, with torch, and where they stand."""


def __getattr__(name: str) -> Any:
    """Return a function of `_JOBS`."""
    if name not in _JOBS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_JOBS[name]), name)


def __dir__() -> list[str]:
    """Return all public names, imported or not."""
    return sorted({*globals(), *_JOBS})
