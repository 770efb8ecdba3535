"""The shape of the house, where no linter looks: sizes, names, and what an import may cost."""

import ast
import importlib
import inspect
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


@pytest.fixture(scope="module")
def house():
    """Return the text and the parsed tree of every module by its name, each read once."""
    texts = {name: path.read_text() for name, path in zip(IDS, MODULES, strict=True)}
    assert len(texts) > 200
    return {name: (text, list(ast.walk(ast.parse(text)))) for name, text in texts.items()}


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


def test_a_module_says_what_it_does(house):
    said = {name: ast.get_docstring(nodes[0]) or "" for name, (_, nodes) in house.items()}
    assert [name for name, docstring in said.items() if len(docstring) <= 40] == []


def test_a_module_stays_small(house):
    sizes = {name: len(text.splitlines()) for name, (text, _) in house.items()}
    assert {name: size for name, size in sizes.items() if size > LINES_A_MODULE} == {}


def test_a_function_stays_small(house):
    sizes = {}
    for name, (text, nodes) in house.items():
        lines = text.splitlines()
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        sizes |= {f"{name}:{one.lineno} {one.name}": net_lines(one, lines) for one in functions}
    assert {name: size for name, size in sizes.items() if size > LINES_A_FUNCTION} == {}


def test_a_module_does_not_probe_for_attributes_or_load_pickles(house):
    """Ask types, not attributes; and a file that can run code when it is read is no file format."""
    found = []
    for name, (_, nodes) in house.items():
        called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        imported = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
        found += [f"{name}: {word}" for word in sorted(called & {"hasattr"} | imported & {"pickle"})]
    assert found == []


def test_a_room_stays_small():
    rooms = {folder: sum(1 for module in MODULES if module.parent == folder) for folder in {m.parent for m in MODULES}}
    assert {str(folder.relative_to(ROOT)): files for folder, files in rooms.items() if files > 17} == {}


def test_every_public_function_is_a_function_after_every_module_was_imported():
    """No module takes the place of a function: `tokenq.train` is not a package `train` that something has imported."""
    names = [f"{ROOT.name}." + ".".join(m.relative_to(ROOT).with_suffix("").parts) for m in MODULES]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name.removesuffix(".__init__"))
    for name in tokenq._JOBS:
        assert inspect.isfunction(getattr(tokenq, name)), name


def test_there_are_no_drawers():
    assert [name for name in IDS if Path(name).stem in {"utils", "util", "common", "helpers", "misc"}] == []


def test_what_needs_no_torch_does_not_import_it():
    """One after the other in one process: what the last has not imported, none has."""
    modules = [
        "tokenq",
        "tokenq.records",
        "tokenq.rundir",
        "tokenq.training.config",
        "tokenq.envs.table",
        "tokenq.cli.main",
    ]
    program = (
        "import importlib, sys\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(module)\n"
        "    print(module, *sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == modules


def test_the_packages_of_the_public_house_are_typed():
    assert (ROOT / "py.typed").exists()
