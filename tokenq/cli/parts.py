"""Lines of a job as they come, so that a kill loses nothing: one file a process, put together in the end.

Under `accelerate launch` every process works on its share of the items (item i belongs to process i mod n) and writes
a file of its own beside the output; the first process puts them together in the order of the items.
"""

import glob
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from tokenq.files import JsonLines, disk_errors
from tokenq.leftovers import remove


class Parts:
    """The files of a job that is under way.

    Args:
        path: the output that will be made of them.
        key: of all that the lines depend on; lines of another job are not taken over.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._state = PartialState()
        self._key, self._path = key, path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        count = self._state.num_processes
        self._parts = [JsonLines(path.with_name(f".{path.name}.partial-{rank}-of-{count}")) for rank in range(count)]

    @property
    def mine(self) -> slice:
        """The items of this process."""
        return slice(self._state.process_index, None, self._state.num_processes)

    def begin(self, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> int:
        """Return how many lines of this process are there already, from a killed run of the same job.

        Args:
            wanted: False for a line from which on the job is done again.
        """
        part = self._parts[self._state.process_index]
        lines = part.read()
        if lines and lines[0].get("key") == self._key:
            part.keep(lambda line: "key" in line or wanted(line))
            return len(part.read()) - 1
        remove(part.path)
        part.append({"key": self._key})
        return 0

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line of this process."""
        self._parts[self._state.process_index].append(dict(line))

    def in_order(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of all processes in the order of their items, up to the first that is missing."""
        files = [part.path.open(encoding="utf-8") for part in self._parts]
        try:
            for file in files:
                next(file)  # the key
            number = 0
            while line := next(files[number % len(files)], None):
                yield json.loads(line)
                number += 1
        finally:
            for file in files:
                file.close()

    def remove(self) -> None:
        """Delete the files, those of an earlier run in other numbers too."""
        for part in self._path.parent.glob(f".{glob.escape(self._path.name)}.partial-*-of-*"):
            remove(part)
