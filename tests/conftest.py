"""What every test gets: no network, no caches of the person who runs them, one BLAS thread a process.

Nothing of tokenq.core may be imported here: pytest turns on its shape checks first.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read by the libraries when they are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a cache folder of its own: a stored reference of one must not serve another."""
    caches: Path = tmp_path_factory.mktemp("caches")
    monkeypatch.delenv("TOKENQ_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(caches / "datasets"))


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    """Forget accelerate's state of the process, which otherwise keeps precision and device of an earlier test."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
