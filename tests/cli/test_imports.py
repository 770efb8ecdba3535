"""What a first number may cost: nothing is imported that it does not use."""

import subprocess
import sys

import pytest
from tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.integration

HEAVY = ("datasets", "pandas", "pyarrow", "sklearn", "matplotlib", "peft", "trl", "IPython", "tensorboard")
"""What is large and belongs to other work: tables of rows, figures, adapters, training."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "llama"
    tiny_model("llama", layers=1).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def test_a_first_number_imports_what_it_uses(folder):
    """In Python, by score and by search, one after the other in a process: what the last has not imported, none has."""
    model, device = str(folder), ["--device", "cpu"]
    score = ["score", "--policy", model, "--reference", model, "--prompt", "One", "--response", " two three", *device]
    search = ["search", "--policy", model, "--prompt", "a", "--max-new-tokens", "2", *device]
    program = (
        "import sys\nimport tokenq\nfrom tokenq.cli.main import main\n"
        f"def told(name):\n    print('imported', name, *sorted({set(HEAVY)} & set(sys.modules)))\n"
        f"tokenq.load({model!r}, {model!r}, device='cpu')\ntold('load')\n"
        f"assert main({score!r}) == 0\ntold('score')\n"
        f"assert main({search!r}) == 0\ntold('search')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    told = [line for line in done.stdout.splitlines() if line.startswith("imported ")]
    assert told == ["imported load", "imported score", "imported search"]


def test_help_and_stored_judgements_need_neither_torch_nor_models(tmp_path):
    """One after the other in a process: help and then a count of judgements."""
    (tmp_path / "judged.json").write_text('[{"preference": 1, "system": "a"}, {"preference": 0, "system": "a"}]')
    program = (
        "import sys\nfrom tokenq.cli.main import main\n"
        "def told():\n    print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])\n"
        "assert main(['--help']) == 0\ntold()\nassert main(sys.argv[1:]) == 0\ntold()"
    )
    words = ["eval", "win-rate", "--preferences", str(tmp_path / "judged.json")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == ["[]", "[]"]
