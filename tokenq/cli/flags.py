"""Flags and YAML keys from a frozen dataclass: one field is one flag, one key, and one line of help.

Flags and YAML scalars are both text and go through the same conversion, so `5e-7`, `no` and `off` mean the same in
both. A flag replaces what the file says. Dashes and underscores are the same. Values are only given their type here;
what they may be is the business of the dataclass.
"""

import argparse
import ast
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from tokenq.errors import UserError, nearest
from tokenq.files import plain
from tokenq.jobs.training.recipes import find
from tokenq.parsing import Raw, convert

Config = TypeVar("Config")
_NULL = "tag:yaml.org,2002:null"


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would have printed."""
        raise UserError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def parse(
    config: type[Config],
    words: Sequence[str],
    *,
    prog: str,
    sections: Mapping[str, str],
    spelt_elsewhere: Mapping[str, str],
    bare: str = "",
    check: Callable[[Any], None] = lambda config: None,
) -> Config | None:
    """Return the configuration that `words` and the file after `--config` ask for.

    Args:
        config: the dataclass.
        words: the command line after the command.
        prog: how the command is called, for help and errors.
        sections: headings of the help page by the first field under them.
        spelt_elsewhere: foreign names of fields, for hints: the field, or a sentence where there is none.
        bare: the field that words before the first flag stand for.
        check: refuses a configuration that `--print-config` would print.

    Returns:
        The configuration, or None when `--print-config` has printed it.

    Raises:
        UserError: an unknown flag or key (with the nearest), a value of the wrong type, or a missing one.
    """
    if bare and words and not words[0].startswith("-"):
        words = [_flag(bare), *words]
    parser = _parser(config, prog, sections, bare)
    known, unknown = parser.parse_known_args([_dashed(word) for word in words])
    taken_back = [name for name in _optional(config) if f"--no{_flag(name)[1:]}" in unknown]
    unknown = [word for word in unknown if word not in {f"--no{_flag(name)[1:]}" for name in taken_back}]
    if unknown:
        raise _unknown_flags(unknown, config, spelt_elsewhere)
    given = vars(known)
    file, print_config = given.pop("config", None), given.pop("print_config", False)
    kinds = get_type_hints(config)
    values = read_yaml(find(file), config, spelt_elsewhere) if file else {}
    values |= {name: convert(raw, kinds[name], _flag(name)) for name, raw in given.items()}
    values |= dict.fromkeys(taken_back)
    _refuse_empty(values, config)
    values |= {name: () for name, other in _instead(config).items() if name not in values and values.get(other)}
    if print_config:
        _refuse_printed(config, values, check)
        print(as_yaml(config, values, sections), end="")
        return None
    for name in _required(config):
        if values.get(name) is None:
            raise UserError(f"{_flag(name)} is missing.", f"Give the flag, or `{name}:` in the file after --config.")
    return config(**values)


def _refuse_printed(config: type[Any], values: Mapping[str, Any], check: Callable[[Any], None]) -> None:
    """Refuse to print values that the command would refuse; what is still to be filled in may be missing."""

    def problem(given: Mapping[str, Any]) -> UserError | None:
        kinds = get_type_hints(config)
        blank = {name: ("-",) if get_origin(kinds[name]) is Sequence else "-" for name in _required(config)}
        known = {name: value for name, value in given.items() if value is not None}
        try:
            check(config(**{**blank, **known}))
        except UserError as error:
            return error
        return None

    found = problem(values) if values else None
    if found is None:
        return
    # What an empty form lacks is no mistake, as long as the complaint names no flag that is given.
    named = {name for name in values if _flag(name) in re.findall(r"--[a-z-]+", str(found))}
    if named or str(found) != str(problem({})):
        raise found


def flags_of(config: type[Any]) -> set[str]:
    """Return the flags of a command as they are typed."""
    return {_flag(field.name) for field in fields(config)}


def read_yaml(path: Path, config: type[Any], spelt_elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that a YAML file sets, with their types.

    Raises:
        UserError: names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else f"it is no text ({error.reason})"
        raise UserError(f"The configuration {path} cannot be read: {said}.", "Check the path.") from error
    try:
        # Nodes and not values: they keep every scalar as it was written, and know their line.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:  # lists in lists in lists …
        raise UserError(f"The configuration {path} is not valid YAML: {error}", "Mend the file.") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"The configuration {path} is not a list of `key: value` lines.", "See --print-config.")
    values: dict[str, Any] = {}
    kinds = get_type_hints(config)
    for key, node in root.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        name = str(key.value).replace("-", "_")
        if name not in kinds:
            hint = _elsewhere(name, str, config, spelt_elsewhere)
            raise UserError(f"Unknown key in {where}: {name}.", f"{hint} --print-config lists them all.".strip())
        if name in values:
            raise UserError(f"{where}: {name} is set a second time.", "Delete one of the two lines.")
        raw = _raw(node, where)
        if raw is None and name not in _optional(config):
            continue  # a key without a value is not given
        values[name] = convert(raw, kinds[name], f"{where}: {name}")
    return values


def as_yaml(config: type[Any], values: Mapping[str, Any], sections: Mapping[str, str]) -> str:
    """Return a YAML file with every field of `config`: help as a comment, value from `values` or default."""
    docs = field_docs(config)
    lines: list[str] = []
    for heading, members in in_sections(config, sections).items():
        lines += ["", f"# --- {heading}"] if heading else []
        for field in members:
            lines += textwrap.wrap(docs[field.name], 118, initial_indent="# ", subsequent_indent="# ")
            value = plain(values.get(field.name, _default(field)))
            text = yaml.safe_dump({field.name: value}, allow_unicode=True, width=10**6)
            missing = value is None and field.name in _required(config)
            lines.append(f"{field.name}:  # required" if missing else text.strip())
    return "\n".join(lines).lstrip("\n") + "\n"


def field_docs(config: type[Any]) -> dict[str, str]:
    """Return the string that stands under each field of a dataclass in its source, or in that of what it extends."""
    if config in _DOCS:
        return _DOCS[config]
    docs = _DOCS[config] = {field.name: "" for field in fields(config)}
    for one in reversed([kind for kind in config.__mro__ if is_dataclass(kind)]):
        name = ""
        for statement in ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body:  # type: ignore[attr-defined]  # a class
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name)):
                    continue
                case ast.Expr(value=ast.Constant(value=str(text))) if name:
                    docs[name] = " ".join(text.split())
            name = ""
    return docs


_DOCS: dict[type[Any], dict[str, str]] = {}
"""The docs that `field_docs` has read before: sources are parsed once."""


def in_sections(config: type[Any], sections: Mapping[str, str]) -> dict[str, list[Field[Any]]]:
    """Return the fields under each heading, in the order of the table; those before its first field have none.

    Args:
        config: the dataclass.
        sections: heading by the first of the fields that stand together under it; one heading may have several.
    """
    runs: dict[str, list[Field[Any]]] = {}
    first = ""
    for field in fields(config):
        first = field.name if field.name in sections else first
        runs.setdefault(first, []).append(field)
    found: dict[str, list[Field[Any]]] = {}
    for first in (name for name in ("", *sections) if name in runs):
        found.setdefault(sections.get(first, ""), []).extend(runs[first])
    return found


def _parser(config: type[Any], prog: str, sections: Mapping[str, str], bare: str) -> Parser:
    needed = " ".join(f"{_flag(name)} {name.upper()}" for name in _required(config))
    parser = Parser(
        prog=prog,
        usage=" ".join(filter(None, (prog, bare.upper(), "[--config FILE]", needed, "[flags]"))),
        description=config.__doc__,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with any of the fields below, or a recipe that ships with tokenq; flags override it",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print every field with its value, as such a file, and stop"
    )
    docs, kinds = field_docs(config), get_type_hints(config)
    for heading, members in in_sections(config, sections).items():
        group = parser.add_argument_group(heading) if heading else parser
        for field in members:
            text = f"{docs[field.name]}{_says(field)}".replace("%", "%%")
            group.add_argument(_flag(field.name), help=text, **_shape(kinds[field.name]))
    return parser


def _shape(kind: Any) -> dict[str, Any]:
    """Return the argparse options of a type: how many words it takes, and their metavar."""
    options = [option for option in get_args(kind) if option is not type(None)]
    if get_origin(kind) in (Union, types.UnionType):
        kind = options[0]
    if get_origin(kind) is Literal:
        return {"metavar": "{" + ",".join(get_args(kind)) + "}"}
    if get_origin(kind) is Sequence:
        return {"metavar": "X" if float in options else "TEXT", "nargs": "*", "action": "extend"}
    if get_origin(kind) is Mapping:
        return {"metavar": "NAME=X" if float in options else "NAME=TEXT", "nargs": "*", "action": "extend"}
    if kind is bool:
        return {"metavar": "true|false", "nargs": "?", "const": "true"}
    return {"metavar": {int: "N", float: "X"}.get(kind, "TEXT")}


def _says(field: Field[Any]) -> str:
    default = _default(field)
    if default is None:
        return "" if field.default is None else " (required)"
    if isinstance(default, bool):
        return f" (default: {str(default).lower()})"
    return "" if default in ((), {}) else f" (default: {default})"


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _required(config: type[Any]) -> list[str]:
    return [f.name for f in fields(config) if f.default is MISSING and f.default_factory is MISSING]


def _instead(config: type[Any]) -> dict[str, str]:
    return {f.name: f.metadata["instead"] for f in fields(config) if "instead" in f.metadata}


def _optional(config: type[Any]) -> list[str]:
    """Return the fields that may be None."""
    return [name for name, kind in get_type_hints(config).items() if type(None) in get_args(kind)]


def _refuse_empty(values: Mapping[str, Any], config: type[Any]) -> None:
    """Refuse empty text, such as that of a shell variable which is not set, but where a text may be empty."""
    for field in fields(config):
        value = values.get(field.name)
        if "" in ([value] if isinstance(value, str) else list(value or ()) if isinstance(value, tuple) else []):
            if field.metadata.get("text"):
                continue
            raise UserError(f"{_flag(field.name)} is empty.", "Give it a value, or leave it out.")


def _unknown_flags(words: Sequence[str], config: type[Any], spelt_elsewhere: Mapping[str, str]) -> UserError:
    """Return the error that names every flag that does not exist, each with what comes closest."""
    flags = list(dict.fromkeys(word.split("=")[0] for word in words if word.startswith("--")))
    if not words[0].startswith("--"):
        return UserError(f"{words[0]!r} belongs to no flag.", "Every value follows its flag, as in --model MODEL.")
    hints = {flag: _elsewhere(flag.lstrip("-").replace("-", "_"), _flag, config, spelt_elsewhere) for flag in flags}
    if len(flags) == 1:
        return UserError(f"Unknown flag: {flags[0]}.", f"{hints[flags[0]]} --help lists them all.".strip())
    said = [f"{flag}: {hint}" for flag, hint in hints.items() if hint]
    return UserError(f"Unknown flags: {', '.join(flags)}.", "\n  ".join([*said, "--help lists them all."]))


def _elsewhere(name: str, spell: Callable[[str], str], config: type[Any], spelt_elsewhere: Mapping[str, str]) -> str:
    """Return a hint for a name that does not exist, "" where no known name comes close."""
    names = [field.name for field in fields(config)]
    known = spelt_elsewhere.get(name)
    if known is not None and known not in names:
        return f"Here: {known}."
    close = known or nearest(name, names)
    return f"Did you mean {spell(close)}?" if close else ""


def _dashed(word: str) -> str:
    """Return a flag with dashes for underscores; values stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _raw(node: yaml.Node, where: str) -> Raw:
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == _NULL else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [str(item.value) for item in node.value]
    if isinstance(node, yaml.MappingNode) and all(isinstance(item, yaml.ScalarNode) for _, item in node.value):
        return {str(key.value): str(item.value) for key, item in node.value}
    raise UserError(f"{where}: lists inside lists are not understood.", "See --print-config for the form.")
