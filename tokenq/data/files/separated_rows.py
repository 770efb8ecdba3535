"""Read CSV and TSV as rows: every cell is text; `NaN` is a missing cell."""

import csv
import io
import itertools
import re
from collections.abc import Iterator

from tokenq.data.files.json_rows import OTHER_ENCODING
from tokenq.data.files.row_bounds import LONGEST_ROW, Columns, NumberedRows, refuse_columns, too_long
from tokenq.data.turns import BadRow
from tokenq.errors import UserError

_LONGEST_CELL = 2**31 - 1
_SEPARATORS = (",", ";", "\t", "|")
_MISSING = ("NaN", "nan")
_CHUNK = 2**20


def read_csv(handle: io.BufferedIOBase, name: str) -> NumberedRows:
    """Yield (row number, columns) of a file with commas, or the separator that its header shows."""
    return _read(handle, name, ",")


def read_tsv(handle: io.BufferedIOBase, name: str) -> NumberedRows:
    """Yield (row number, columns) of a file with tabs, or the separator that its header shows."""
    return _read(handle, name, "\t")


def _read(handle: io.BufferedIOBase, name: str, usual: str) -> NumberedRows:
    faults: list[BadRow] = []
    lines = _lines(handle, faults)
    before, first = next(((n, line) for n, line in enumerate(lines) if line.strip(" ,;\t|\r\n")), (0, ""))
    if told := re.fullmatch(r'"?sep=(.)"?\s*', first):  # as Excel says it
        before, first = before + 1, next(lines, "")
    former = csv.field_size_limit(_LONGEST_CELL)
    separator = told[1] if told else _separator(first, usual)
    reader = csv.reader(itertools.chain([first], lines), delimiter=separator, strict=True)
    try:
        header = _header(next(reader, []), name)
        faults.clear()
        for number, cells in enumerate((cells for cells in reader if cells), 1):
            yield number, faults[0] if faults else _row(cells, header, before + reader.line_num)
            faults.clear()
    except csv.Error as error:
        line = before + reader.line_num
        raise UserError(f"{name}, line {line}: broken CSV ({error}).", "Mend that line.") from error
    finally:
        csv.field_size_limit(former)


def _lines(handle: io.BufferedIOBase, faults: list[BadRow]) -> Iterator[str]:
    """Yield the lines as text, and add errors to `faults`."""
    quoted = False
    mark = "\ufeff"
    while line := handle.readline(LONGEST_ROW + 1):
        odd, size = line.count(b'"') % 2 == 1, len(line)
        while not line.endswith(b"\n") and size > LONGEST_ROW and (more := handle.readline(_CHUNK)):
            line, odd, size = more, odd ^ (more.count(b'"') % 2 == 1), size + len(more)
        if size > LONGEST_ROW:
            faults.append(too_long(size))
            line = {(False, True): b'"\n', (True, False): b'"\n'}.get((quoted, quoted ^ odd), b".\n")
        quoted ^= odd
        try:
            yield line.decode("utf-8").removeprefix(mark)
        except UnicodeDecodeError:
            faults.append(BadRow("not UTF-8 text", f"not UTF-8 text: {OTHER_ENCODING}"))
            yield line.decode("utf-8", "replace")


def _separator(header: str, usual: str) -> str:
    """Return the separator of a header: the usual one, unless only another occurs."""
    try:
        found = {one: len(next(csv.reader([header], delimiter=one), [])) for one in (usual, *_SEPARATORS)}
    except csv.Error:  # a header that is no text: whoever reads it says so
        return usual
    return usual if found[usual] > 1 else max(found, key=lambda one: found[one])


def _header(cells: list[str], name: str) -> list[str]:
    """Return the names of the columns, without the blanks around them.

    Raises:
        UserError: a name stands twice, or there are too many.
    """
    names = [cell.strip() for cell in cells]
    refuse_columns(names, name, "in the header")
    return names


def _row(cells: list[str], header: list[str], line: int) -> Columns | BadRow:
    if len(cells) != len(header):
        return BadRow(
            "a row with more or fewer cells than the header",
            f"line {line} has {len(cells)} cells, but the header has {len(header)} (cells that contain the separator, "
            "quotes or line breaks stand in double quotes)",
        )
    if sum(map(len, cells)) > LONGEST_ROW:
        return too_long(sum(map(len, cells)))
    if [cell.strip() for cell in cells] == header:
        return BadRow("a header amid the rows", f"line {line} is the header once more")
    return {column: None if cell in _MISSING else cell for column, cell in zip(header, cells, strict=True) if column}
