"""Recipes that ship with tokenq: `--config recipes/hh_pythia2.8b_dpo.yaml` works wherever the command is called."""

from pathlib import Path

import tokenq
from tokenq.errors import UserError, nearest

_INSIDE = Path(tokenq.__file__).parent / "recipes"

FOLDER = _INSIDE if _INSIDE.is_dir() else Path(tokenq.__file__).parents[1] / "recipes"
"""The folders of recipes: inside the installed package, or beside it in a checkout."""


def find(path: str) -> Path:
    """Return the file that a path names: on disk, or among the recipes where nothing on disk has that name.

    Args:
        path: a file, or a recipe with or without `recipes/` in front and `.yaml` behind.

    Raises:
        UserError: there is neither.
    """
    place = Path(path).expanduser()
    if place.exists():
        return place
    name = path.removeprefix("recipes/")
    for candidate in (FOLDER / name, FOLDER / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.rglob("*.yaml"))
    close = nearest(name.removesuffix(".yaml"), known)
    hint = f"Did you mean the recipe {close}?" if close else f"Check the path; recipes lie in {FOLDER}."
    raise UserError(f"There is no file {path}.", hint)


def read_template(path: str | None) -> str | None:
    """Return the chat template of a file, None where none is named."""
    if path is None:
        return None
    try:
        return find(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"The chat template {path} cannot be read: {problem}", "Give a Jinja file.") from None
