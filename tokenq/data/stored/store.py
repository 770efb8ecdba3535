"""Data that are tokenised once: the files of a source, found again by a key of all that decides what is in them."""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow

from tokenq.core.losses.units import Unit
from tokenq.data.bad_rows import BadRowsError, UnusableRow, nothing_left
from tokenq.data.examples import format_of, stream_examples
from tokenq.data.files.local import Piece, Row
from tokenq.data.stored.columns import FIELDS, TokenFile, encode
from tokenq.data.stored.texts import from_json, to_json
from tokenq.data.tokenize import Tokenization
from tokenq.data.turns import BadRow
from tokenq.errors import UserError
from tokenq.files import digest_of, disk_errors, write_json
from tokenq.records.examples import Example

VERSION = 1
"""Version of the files; a change makes old ones invisible."""

_TOGETHER = 1024
"""Examples that are tokenised together."""

_ROWS_OF_A_BATCH = 2**15
_BYTES_OF_A_BATCH = 2**26

_ROWS_BETWEEN_LINES = 100_000


@dataclass(frozen=True)
class Recipe:
    """All that decides what the tokens of some rows are.

    Attributes:
        reading: how rows become examples: the settings of `read_examples` by name.
        tokenization: gives a tokenisation.
        identity: of the tokenizer and the limits of length.
        unit: what a loss counts.
        drops: whether bad rows are left out and counted, and are no error.
    """

    reading: Mapping[str, Any]
    tokenization: Callable[[], Tokenization]
    identity: Mapping[str, Any]
    unit: Unit
    drops: bool


class StoredSource(NamedTuple):
    """A source in token space, on the disk.

    Attributes:
        tokens: its groups.
        rows: rows read.
        dropped: what gave no group, by reason.
        note: what was decided about its format that the user may want otherwise, "" for nothing.
    """

    tokens: TokenFile
    rows: int
    dropped: Counter[str]
    note: str


def stored(
    name: str, pieces: Sequence[Piece], recipe: Recipe, root: Path, workers: int, say: Callable[[str], None]
) -> StoredSource:
    """Return a source in token space, tokenised now if it was not before.

    Args:
        name: of the source.
        pieces: its files or tables.
        recipe: how they become tokens.
        root: the folder that holds all that is tokenised.
        workers: processes that tokenise.
        say: told when something is tokenised, and where to.

    Raises:
        UserError: no row can be used, or one cannot and is not to be left out.
    """
    text = json.dumps([VERSION, _source_code(), _identities(pieces), _plain(recipe)], sort_keys=True)
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if _account(folder) is None:
            say(f"data: tokenising {name} once, into {folder}")
            try:
                with disk_errors(folder):
                    _build(name, _Reader(pieces, recipe, say), recipe, folder, workers)
            finally:
                for left in folder.glob(".*.tmp*"):  # of this process, or of one that was killed
                    left.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's, or the disk is for reading alone
            os.utime(folder / "meta.json")  # when it was last used
        meta = _account(folder) or {}
    paths = [folder / file for file in meta["files"]]
    return StoredSource(TokenFile(paths), meta["rows"], Counter(meta["dropped"]), meta["note"])


def _account(folder: Path) -> dict[str, Any] | None:
    """Return what a folder says that it holds, None where it is not whole."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in meta["files"].items())
        return meta if whole else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _plain(recipe: Recipe) -> Mapping[str, Any]:
    reading = {**recipe.reading, "columns": dict(recipe.reading["columns"])}
    return {"reading": reading, "identity": recipe.identity, "unit": recipe.unit.name, "drops": recipe.drops}


def _identities(pieces: Sequence[Piece]) -> list[list[str]]:
    """Return name and content of each piece; the name stands in every row."""
    contents = (one.content for one in pieces)
    told = (digest_of(one) if isinstance(one, Path) else str(one._fingerprint) for one in contents)
    return [[piece.name, content] for piece, content in zip(pieces, told, strict=True)]


@functools.cache
def _source_code() -> str:
    """Return a hash of what reads rows and makes tokens of them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time tokenise a source; others wait for it, and find it done."""
    from filelock import FileLock

    lock = FileLock(folder / ".lock", thread_local=False)
    held = contextlib.ExitStack()
    with contextlib.suppress(OSError, NotImplementedError):  # a disk without locks: what is written last is found
        held.enter_context(lock)
    with held:
        yield


def _build(name: str, reader: "_Reader", recipe: Recipe, folder: Path, workers: int) -> None:
    """Tokenise a source into a folder; the file that says so is written last."""
    if workers > 1:
        files = _in_processes(reader, recipe, folder, workers)
    else:
        work = recipe.tokenization()
        files = [_write(folder, FIELDS, (encode(chunk, work, recipe.unit) for chunk in reader.chunks()))]
    lost, bad, tokens = Counter(reader.dropped), list(reader.bad), TokenFile(files)
    groups = 0
    for batch in tokens.columns("account"):
        accounts = [json.loads(text) for text in batch.column(0).to_pylist() if text]
        groups += batch.num_rows - len(accounts)
        for account in accounts:
            if account["refused"]:
                raise UserError(*account["refused"])
            lost.update(account["lost"])
            bad += [UnusableRow(number, where, BadRow(*why)) for number, where, *why in account["bad"]]
    if bad and not recipe.drops:
        raise BadRowsError(bad, reader.rows)
    lost.update(one.problem.reason for one in bad)
    if not groups:
        raise nothing_left(lost, bad)
    renamed = [file.rename(folder / f"tokens-{number:05d}.arrow") for number, file in enumerate(files)]
    named = {file.name: file.stat().st_size for file in renamed}
    meta = {"source": name, "files": named, "rows": reader.rows, "dropped": lost, "note": reader.note}
    write_json(folder / "meta.json", meta)


class _Reader:
    """The examples of a source, and an account of its rows."""

    def __init__(self, pieces: Sequence[Piece], recipe: Recipe, say: Callable[[str], None]) -> None:
        self._pieces, self._recipe, self._say = pieces, recipe, say
        self.rows = 0
        self.bad: list[UnusableRow] = []
        self.dropped: Counter[str] = Counter()
        self.note = ""

    def chunks(self) -> Iterator[list[tuple[int, Example]]]:
        """Yield (number of its row, example), many at a time."""
        rows, reading = self._counted(), self._recipe.reading
        begin: list[tuple[int, Row]] = []
        for number, row in rows:
            begin.append((number, row))
            if not row.fault:
                break
        form, self.note = format_of([row for _, row in begin], reading["selection"], reading["columns"])
        examples = stream_examples(itertools.chain(begin, rows), form, self.bad, self.dropped, **reading)
        while chunk := list(itertools.islice(examples, _TOGETHER)):
            yield chunk

    def _counted(self) -> Iterator[tuple[int, Row]]:
        for row in itertools.chain.from_iterable(piece.rows() for piece in self._pieces):
            self.rows += 1
            if self.rows % _ROWS_BETWEEN_LINES == 0:
                self._say(f"data: {self.rows:,} rows")
            yield self.rows - 1, row


def _write(folder: Path, schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> Path:
    """Write rows aside, in parts of many thousands, and return where."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
        held: list[pyarrow.RecordBatch] = []
        for batch in batches:
            held.append(batch)
            rows, size = sum(one.num_rows for one in held), sum(one.nbytes for one in held)
            if rows >= _ROWS_OF_A_BATCH or size >= _BYTES_OF_A_BATCH:
                writer.write_table(pyarrow.Table.from_batches(held).combine_chunks())
                held = []
        if held:
            writer.write_table(pyarrow.Table.from_batches(held).combine_chunks())
    return path


def _in_processes(reader: _Reader, recipe: Recipe, folder: Path, workers: int) -> list[Path]:
    """Do the same with several processes: one reads, then all tokenise."""
    from datasets import Dataset, Features

    schema = pyarrow.schema([("chunk", pyarrow.string())])
    chunks = ([to_json(chunk)] for chunk in reader.chunks())
    read = _write(
        folder, schema, (pyarrow.RecordBatch.from_arrays([pyarrow.array(one)], schema=schema) for one in chunks)
    )
    aside = folder / f".{uuid.uuid4().hex}.tmp.arrow"
    environ = os.environ
    try:
        done = Dataset.from_file(str(read)).map(
            functools.partial(_encode_chunks, recipe.tokenization(), recipe.unit),
            batched=True,
            batch_size=1,
            num_proc=workers,
            remove_columns=["chunk"],
            features=Features.from_arrow_schema(FIELDS),
            writer_batch_size=_ROWS_OF_A_BATCH,
            cache_file_name=str(aside),
            new_fingerprint=aside.stem.strip("."),
        )
        return [Path(file["filename"]) for file in done.cache_files]
    finally:
        _put_back(environ)
        read.unlink()


def _put_back(environ: "os._Environ[str]") -> None:
    """Make a mapping the environment again, with what is in that of today: `datasets` leaves a copy in its place."""
    copy, os.environ = os.environ, environ  # the very mapping, which others hold
    for name in environ.keys() - copy.keys():
        del environ[name]
    environ.update(copy)


def _encode_chunks(work: Tokenization, unit: Unit, chunks: Mapping[str, Sequence[str]]) -> pyarrow.Table:
    return pyarrow.Table.from_batches([encode(from_json(chunk), work, unit) for chunk in chunks["chunk"]])
