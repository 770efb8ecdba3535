"""A job that is the first to import torch and accelerate leaves them as a new process has them, also if it fails."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

PROGRAM = """
import sys
from tokenq.jobs.host import untouched

assert "torch" not in sys.modules
try:
    with untouched():
        import torch
        from accelerate.state import PartialState

        torch.manual_seed(1)
        PartialState(cpu=True)
        assert PartialState._shared_state
        raise KeyError("stopped")
except KeyError:
    pass
print(torch.initial_seed() == 1, PartialState._shared_state)
"""


def test_libraries_that_a_job_has_imported_are_as_new():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "False {}\n"), done.stderr
