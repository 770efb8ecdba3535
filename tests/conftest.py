"""What every test gets: no network, no caches of the person who runs them, one BLAS thread a process.

Nothing of tokenq.core may be imported here: pytest turns on its shape checks first.
"""

import gc
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Read by the libraries when they are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# readline, which pytest imports, tells the workers that they write to a terminal of 80 columns.
for _size in ("COLUMNS", "LINES"):
    os.environ.pop(_size, None)

# What tests write is flushed to the disk thousands of times (a rename after fsync) and deleted in the end: milliseconds
# each on a disk, nothing in memory. A whole run holds less than half a gigabyte at a time.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# Kept for the next worker, the next process and the next run, whatever the environment says: half of collecting is
# compiling, and a process that a test starts would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# While modules are imported and tests collected everything stays, so that there is no garbage to look for.
gc.disable()

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

_numbers = itertools.count()


hypothesis.settings.register_profile("few", max_examples=30)
hypothesis.settings.register_profile("all", max_examples=100)


def pytest_configure(config: pytest.Config) -> None:
    """Let a property be tried on its whole number of examples where slow tests run too, and else on three tenths."""
    few = "not slow" in config.option.markexpr and not config.getoption("--hypothesis-profile")
    hypothesis.settings.load_profile("few" if few else "all")


def pytest_collection_finish() -> None:
    """Leave what was imported and collected (millions of objects) out of every later round of garbage collection."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # the least of what tests make is a cycle, and looking for it took 20 s
    gc.enable()


def _caches_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENQ_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))


def _proofs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the outcome of proofs, which depend on no weights and no file: one for all workers."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "proofs"
    folder.mkdir(exist_ok=True)
    folder.with_name("games").mkdir(exist_ok=True)
    return folder


def _keep_proofs(caches: Path, proofs: Path) -> None:
    (caches / "tokenq").mkdir(parents=True)
    (caches / "tokenq" / "proofs").symlink_to(proofs)
    (caches / "tokenq" / "games").symlink_to(proofs.with_name("games"))  # what is compiled depends on its name alone


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give what modules share caches that are the session's, and return the folder for those of its tests."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _caches_are(folder / "shared", monkeypatch)
        _keep_proofs(folder / "shared", _proofs(tmp_path_factory))
        yield folder


@pytest.fixture(scope="session")
def _shared_proofs(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Return the folder of proofs; None in modules whose tests are to find them anew."""
    return _proofs(tmp_path_factory)


@pytest.fixture(autouse=True)
def _own_caches(_caches: Path, _shared_proofs: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a cache folder of its own: a stored reference of one must not serve another."""
    caches = _caches / str(next(_numbers))  # made by whoever stores something, if proofs have no place of their own
    _caches_are(caches, monkeypatch)
    if _shared_proofs:
        _keep_proofs(caches, _shared_proofs)


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    """Forget accelerate's state of the process, which otherwise keeps precision and device of an earlier test."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture(scope="module")
def browser():
    """Return a headless Chromium of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs a browser of the system: apt-get install chromium")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield launched
        launched.close()
