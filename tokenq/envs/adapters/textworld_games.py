"""Games of TextWorld: generated and compiled once, and kept in tokenq's cache folder by what they were made of."""

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from tokenq.cache import GAMES, cache_folder, versions
from tokenq.envs.adapters import installed
from tokenq.errors import UserError, reason


def generated(rooms: int, objects: int, quest_length: int, seed: int) -> Path:
    """Return the compiled game, whose description lies beside it as .json; compiling takes seconds, the first time.

    Args:
        rooms: how many.
        objects: how many, at least.
        quest_length: commands of the quest that the generator has in mind; a shorter way may exist.
        seed: of the generator.

    Raises:
        UserError: TextWorld is not installed, or cannot make such a game.
    """
    textworld = installed("textworld", "textworld")
    wanted = {"rooms": rooms, "objects": objects, "quest_length": quest_length, "seed": seed}
    text = json.dumps({**wanted, **versions("textworld")})
    folder = games_folder() / hashlib.sha256(text.encode()).hexdigest()[:32]
    game = folder / "game.z8"
    if game.is_file():
        with contextlib.suppress(OSError):
            os.utime(game)  # `tokenq cache` tells what was not used for long
        return game
    aside = Path(tempfile.mkdtemp(prefix=".half-", dir=folder.parent))
    try:
        _make(textworld, wanted, aside / game.name)
        (aside / "options.json").write_text(text, encoding="utf-8")
        with contextlib.suppress(OSError):  # another process was faster: its game is the same
            os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return game


def found(name: str) -> list[Path]:
    """Return a game that was made before, or those of a folder in the order of their names.

    Raises:
        UserError: there is none, or one that lacks its description.
    """
    path = Path(name).expanduser()
    games = sorted(path.glob("*.z8")) if path.is_dir() else [path]
    if not games or not games[0].is_file():
        raise UserError(f"There is no game {name}.", "Name a .z8 file of tw-make, or a folder of such files.")
    for game in games:
        if game.suffix != ".z8":
            raise UserError(f"{game} is no .z8 file.", "TextWorld 1.7 plays no other; tw-make --format z8 writes them.")
        if not game.with_suffix(".json").is_file():
            raise UserError(
                f"{game} has no {game.with_suffix('.json').name} beside it, which says what can be done in the game.",
                "tw-make writes both: copy them together.",
            )
    return games


_IDLE: dict[tuple[Path, int], list[Any]] = {}
"""Engines that nobody plays on, by their game and when its description was written."""

MOST_IDLE = 64
"""Engines of a game that are kept: as many as are played side by side, as a rule."""


def started(path: Path) -> Any:
    """Return an engine with a game in it, to be reset: an idle one takes a third of the time of a new one."""
    with contextlib.suppress(KeyError, IndexError):
        return _IDLE[path, _written(path)].pop()
    textworld = installed("textworld", "textworld")
    infos = textworld.EnvInfos(admissible_commands=True, objective=True, score=True, won=True, lost=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine does not know how to score this game; TextWorld does
        engine = textworld.start(str(path), infos)
    engine.seed(1)  # of what a game draws, else it is the time
    return engine


def left(path: Path, engine: Any) -> None:
    """Keep an engine for the next episode of its game; it must be sound."""
    idle = _IDLE.setdefault((path, _written(path)), [])
    if len(idle) < MOST_IDLE:
        idle.append(engine)
    else:
        engine.close()


def _written(path: Path) -> int:
    """Return when the description of a game was written, 0 where it is gone; the game itself is touched when used."""
    description = path.with_suffix(".json")
    return description.stat().st_mtime_ns if description.is_file() else 0


def _make(textworld: Any, wanted: dict[str, int], path: Path) -> None:
    options = textworld.GameOptions()
    options.nb_rooms, options.nb_objects = wanted["rooms"], wanted["objects"]
    options.path = str(path)
    try:
        options.seeds, options.quest_length = wanted["seed"], wanted["quest_length"]
        textworld.make(options)
    except Exception as problem:
        said = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise UserError(
            f"TextWorld makes no game of {said}: {type(problem).__name__}: {reason(problem)}.",
            "Take another game_seed, more rooms or objects, or a shorter quest.",
        ) from problem


def games_folder() -> Path:
    """Return the folder of games; one of this process where none is kept, or tokenq's cannot be written."""
    kept = cache_folder()
    if kept is None:
        return _temporary()
    try:
        (kept / GAMES).mkdir(parents=True, exist_ok=True)
        return kept / GAMES if os.access(kept / GAMES, os.W_OK) else _temporary()
    except OSError:
        return _temporary()


@cache
def _temporary() -> Path:
    """Return a folder for this process, where nothing is kept between runs."""
    folder = Path(tempfile.mkdtemp(prefix="tokenq-games-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
