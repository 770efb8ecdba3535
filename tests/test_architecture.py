"""The shape of the house, where no linter looks: sizes, names, and what an import may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tokenq

ROOT = Path(tokenq.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in MODULES]
LINES_A_MODULE = 330  # the aim is 300, with a tenth of slack
LINES_A_FUNCTION = 50

each_module = pytest.mark.parametrize("path", MODULES, ids=IDS)


def net_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Lines of a function without its docstring, its comments and its blank lines."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    lines = source[body[0].lineno - 1 : function.end_lineno]
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


def test_net_lines_counts_code_only():
    source = 'def f():\n    """Doc.\n\n    More.\n    """\n    # why\n    a = 1\n\n    return a\n'
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert net_lines(function, source.splitlines()) == 2


@each_module
def test_a_module_says_what_it_does(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert len(docstring) > 40


@each_module
def test_a_module_stays_small(path):
    assert len(path.read_text().splitlines()) <= LINES_A_MODULE


@each_module
def test_a_function_stays_small(path):
    text = path.read_text()
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {function.name: net_lines(function, text.splitlines()) for function in functions}
    assert {name: size for name, size in sizes.items() if size > LINES_A_FUNCTION} == {}


@each_module
def test_a_module_does_not_probe_for_attributes_or_load_pickles(path):
    """Ask types, not attributes; and a file that can run code when it is read is no file format."""
    tree = ast.parse(path.read_text())
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    imported = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert "hasattr" not in called
    assert "pickle" not in imported


def test_there_are_no_drawers():
    assert [name for name in IDS if Path(name).stem in {"utils", "util", "common", "helpers", "misc"}] == []


@pytest.mark.parametrize(
    "module", ["tokenq", "tokenq.records", "tokenq.rundir", "tokenq.training.config", "tokenq.cli.main"]
)
def test_what_needs_no_torch_does_not_import_it(module):
    program = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'accelerate'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_packages_of_the_public_house_are_typed():
    assert (ROOT / "py.typed").exists()
