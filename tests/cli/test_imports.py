"""What a first number may cost: nothing is imported that it does not use."""

import subprocess
import sys

import pytest

from tokenq.worlds.tiny import tiny_model, tiny_tokenizer

HEAVY = ("datasets", "pandas", "pyarrow", "sklearn", "matplotlib", "peft", "trl", "IPython", "tensorboard")
"""What is large and belongs to other work: tables of rows, figures, adapters, training."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "llama"
    tiny_model("llama").save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def imported_by(program):
    report = f"{program}\nimport sys\nprint('imported:', *sorted({set(HEAVY)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "words",
    [
        [
            "score",
            "--policy",
            "F",
            "--reference",
            "F",
            "--prompt",
            "One",
            "--response",
            " two three",
            "--device",
            "cpu",
        ],
        ["search", "--policy", "F", "--prompt", "a", "--max-new-tokens", "2", "--device", "cpu"],
    ],
    ids=["score", "search"],
)
def test_a_first_number_imports_what_it_uses(folder, words):
    words = [str(folder) if word == "F" else word for word in words]
    assert imported_by(f"from tokenq.cli.main import main\nassert main({words!r}) == 0") == []


def test_opening_in_python_imports_what_it_uses(folder):
    assert imported_by(f"import tokenq\ntokenq.load({str(folder)!r}, {str(folder)!r}, device='cpu')") == []


def test_help_imports_neither_torch_nor_numbers():
    program = "import sys\nfrom tokenq.cli.main import main\nmain(['--help'])\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
