"""Pictures drawn from prompts, into a file of drawings that a kill does not lose, and pairs made of them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike, fspath
from os.path import relpath
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState

import tokenq
from tokenq.data.prompts import Prompt, load_prompts
from tokenq.data.sources import Data
from tokenq.files import json_line, write_json_lines, write_lines
from tokenq.jobs.drawing.config import DrawConfig
from tokenq.jobs.drawing.judge import PictureJudge, picture_judge
from tokenq.jobs.drawing.painter import (
    Asked,
    Painter,
    asked_text,
    clear_unnamed,
    folder_of,
    load_painter,
    refuse_foreign_folder,
    seeds_of,
)
from tokenq.jobs.drawing.refiner import Refiner, load_refiner
from tokenq.jobs.drawing.run import is_behind_a_refiner
from tokenq.jobs.host import untouched
from tokenq.jobs.inputs import Name, RowsInMemory, data_given
from tokenq.jobs.outputs import Parts, claimed, is_made, recorder
from tokenq.jobs.run import Run
from tokenq.listener import SILENCE, Event, Listener
from tokenq.records.drawings import Drawing, Refinement, pairs_of, read_drawings
from tokenq.records.schema import SCHEMA
from tokenq.rundir import provenance


@dataclass(frozen=True)
class Drawn:
    """Pictures at rest.

    Attributes:
        path: the file of drawings; their files are named relative to its folder.
        drawings: its lines.
    """

    path: Path
    drawings: Sequence[Drawing]


def draw(  # noqa: D417, PLR0913 (one keyword a setting, each explained there)
    model: Name | Run,
    prompts: Name | RowsInMemory,
    output: Name,
    *,
    listener: Listener = SILENCE,
    refiner: Name | Run | None = None,
    samples: int = 2,
    steps: int = 20,
    sampler: Literal["ancestral", "flow_sde"] = "ancestral",
    eta: float = 1.0,
    guidance: float | None = None,
    same_noise: bool = True,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    judge: str | None = None,
    reward_model: Name | None = None,
    pairs: Name | None = None,
    columns: Mapping[str, str] = {},
    style: Literal["as_given", "chat"] = "as_given",
    bad_rows: Literal["error", "drop"] = "error",
    batch_size: int = 16,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> Drawn:
    """Draw pictures, and return them.

    The settings are those of `tokenq draw` (`tokenq draw --help` has a line each). The same call goes on where a killed
    one stopped.

    Args:
        model: the folder of a diffusers pipeline, or a run.
        prompts: names of files or hub ids, a `datasets.Dataset`, a pandas frame, or a list of dictionaries.
        output: file of drawings; the pictures lie in a folder beside it.
        listener: told what is found, and how far it is.

    Raises:
        UserError: for anything that the user can mend.
    """
    given = {name: value for name, value in locals().items() if name != "listener"}
    named, data = data_given(prompts)
    folders = {name: given[name].folder for name in ("model", "refiner") if isinstance(given[name], Run)}
    given |= folders | {"prompts": named}
    given = {name: fspath(value) if isinstance(value, PathLike) else value for name, value in given.items()}
    with untouched():
        return drawn(DrawConfig(**given), listener, data)


def drawn(config: DrawConfig, listener: Listener, data: Data | None = None) -> Drawn:
    """Draw what `config` says, and return the pictures.

    Args:
        config: what is asked for.
        listener: told what is found, and how far it is.
        data: rows, instead of the files that the configuration names.

    Raises:
        UserError: for anything that the user can mend.
    """
    config.check()
    if config.refiner is None and is_behind_a_refiner(config.model):
        config = replace(config, refiner=config.model)
    path = Path(config.output)
    files = [Path(name) for name in (config.output, config.pairs) if name is not None]
    with claimed("tokenq draw", files, overwrite=config.overwrite):
        state = PartialState(cpu=config.device == "cpu")
        listener = listener if state.is_main_process else SILENCE
        refuse_foreign_folder(path, overwrite=config.overwrite)
        loaded = load_prompts(config.prompts if data is None else data, config.columns, config.style, config.bad_rows)
        if loaded.dropped:
            listener.say(f"prompts: {loaded.line()}")
        studio = studio_of(config, listener)
        draw_to_file(path, studio, loaded.prompts, listener)
        if not state.is_main_process:
            return Drawn(path, ())
        found = list(read_drawings(path))
        why = "their prompts are empty" if config.refiner is None else "the refiner ended at once"
        if empty := sum(not one.drawn_prompt for one in found):
            listener.say(f"warning: {empty} of {len(found)} pictures are of no words: {why}")
        if config.pairs is not None:
            _write_pairs(Path(config.pairs), path, found, config, listener)
        listener.say(f"done: {len(found)} pictures are in {path}, with their files in {folder_of(path)}")
        return Drawn(path, found)


@dataclass(frozen=True)
class Studio:
    """Everything that draws.

    Attributes:
        config: what is asked for.
        painter: the image model.
        refiner: rewrites prompts before; None where nothing does.
        judge: says what a picture is worth; None where nobody does.
        side_by_side: prompts that are drawn at a time.
    """

    config: DrawConfig
    painter: Painter
    refiner: Refiner | None
    judge: PictureJudge | None
    side_by_side: int

    def key(self, prompts: Sequence[Prompt]) -> str:
        """Return a key of all that the drawings depend on."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in _IDLE}
        code = None if self.judge is None else self.judge.identity
        said = [tokenq.__version__, SCHEMA, sorted(settings.items(), key=str), self.painter.steps.guidance, code]
        weights = [self.painter.identity.weights, self.refiner and self.refiner.weights]
        asked = [(one.id, one.text) for one in prompts]
        return hashlib.sha256(repr((said, weights, asked)).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Return where the drawings come from."""
        read: dict[str, Any] = {"model": self.painter.identity.to_dict()}
        read |= {} if self.refiner is None else {"refiner": self.refiner.searcher.identities["policy"]}
        told = {"guidance": self.painter.steps.guidance, "levels": list(self.painter.steps.levels)}
        return provenance(asdict(self.config), self.config.seed, read) | {"made_by": "tokenq draw", **told}

    def blocks(self, path: Path, numbered: Sequence[tuple[int, Prompt]], done: int = 0) -> Iterator[list[Drawing]]:
        """Yield the drawings of the prompts that are drawn side by side, their files written, without those done.

        Args:
            path: the file of drawings that will be.
            numbered: what is asked, each with its place among all.
            done: blocks at the beginning that are left out; the others get the same bits.
        """
        size, config = self.side_by_side, self.config
        refined = None if self.refiner is None else self.refiner.written([one for _, one in numbered], done * size)
        for start in range(done * size, len(numbered), size):
            asked = []
            for place, prompt in numbered[start : start + size]:
                plain: list[tuple[str, Refinement | None]] = [(asked_text(prompt), None)] * config.samples
                own = plain if refined is None else next(refined)
                seeds = seeds_of(config.seed, place, config.samples, same_noise=config.same_noise)
                asked += [Asked(prompt, place, n, text, how, seeds[n]) for n, (text, how) in enumerate(own)]
            yield self._judged(path, list(self.painter.drawings(path, asked, config.batch_size)))

    def _judged(self, path: Path, found: list[Drawing]) -> list[Drawing]:
        if self.judge is None:
            return found
        rewards = self.judge([one.prompt for one in found], [path.parent / one.picture for one in found])
        return [replace(one, reward=worth, judge=self.judge.name) for one, worth in zip(found, rewards, strict=True)]


_IDLE = (
    *("output", "pairs", "overwrite", "device", "prompts", "columns", "bad_rows"),
    *("model", "refiner", "guidance", "reward_model"),
)
"""Settings that drawings do not depend on, or that stand in the key by what they hold."""


def studio_of(config: DrawConfig, listener: Listener) -> Studio:
    """Return the models and the judge of a configuration, ready to draw."""
    side_by_side = max(1, config.batch_size // config.samples)
    judge = None if config.judge is None else picture_judge(config.judge, config.reward_model, config.device)
    painter = load_painter(config, listener)
    return Studio(config, painter, load_refiner(config, listener, side_by_side), judge, side_by_side)


def draw_to_file(path: Path, studio: Studio, prompts: Sequence[Prompt], listener: Listener) -> None:
    """Draw, and write a line a picture to `path`, with a record of where they come from beside it.

    Prompts that are drawn side by side are kept when all of their pictures lie on the disk; a file that holds the whole
    of the same job is left as it is. What was killed goes on with the next of them, to the same bytes.
    """
    state, key, size = PartialState(), studio.key(prompts), studio.side_by_side
    parts, count = Parts(path, key), len(prompts) * studio.config.samples
    if is_made(path, key):
        listener.say(f"the {count} pictures are in {path} already")
        state.wait_for_everyone()
        if state.is_main_process:
            parts.remove()
        return
    numbered = list(enumerate(prompts))
    blocks = [numbered[start : start + size] for start in range(0, len(numbered), size)]
    own = [one for block in blocks[parts.mine] for one in block]
    done = parts.begin()
    if done:
        listener.say(f"going on after {min(done * size, len(own))} of {len(own)} prompts that were drawn before")
    for block, found in enumerate(studio.blocks(path, own, done), done + 1):
        parts.append(b"".join(json_line(one.to_dict()) for one in found))
        listener(Event("drawing", min(block * size, len(own)), len(own)))
    state.wait_for_everyone()
    if not state.is_main_process:
        return
    record = {**studio.record(), "records": count, "key": key}
    write_lines(path, parts.in_order(), recorder(path, lambda: record))
    parts.remove()
    clear_unnamed(path, len(prompts), studio.config.samples)


def _write_pairs(path: Path, drawings: Path, found: Sequence[Drawing], config: DrawConfig, listener: Listener) -> None:
    """Write the pairs of judged drawings, with files named relative to theirs, and say how many there are."""
    pairs = pairs_of(found)
    rows = [{name: _beside(path, drawings, name, value) for name, value in row.items()} for row in pairs]
    record = provenance(asdict(config), config.seed, {}) | {"made_by": "tokenq draw", "records": len(rows)}
    write_json_lines(path, rows, recorder(path, lambda: record))
    listener.say(f"pairs: {len(rows)} of {len({one.id for one in found})} prompts are in {path}")


_FILES = frozenset(f"{side}{what}" for side in ("chosen", "rejected") for what in ("", "_trajectory"))
"""Columns of pairs that name files."""


def _beside(path: Path, drawings: Path, name: str, value: Any) -> Any:
    return Path(relpath(drawings.parent / value, path.parent)).as_posix() if name in _FILES else value
