"""The traces of pictures, as Python has them: gone through, as a page, as files of credit maps."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenq.files import disk_errors
from tokenq.records.picture_traces import ReadPicture, read_pictures
from tokenq.report.pictures.heat import heat_png
from tokenq.report.pictures.page import write_picture_page

_STRANGE = re.compile(r"[^\w.-]+")
"""What has no place in the name of a file."""


@dataclass(frozen=True)
class PictureTraces:
    """The traces of pictures, in the order of their rows.

    Attributes:
        source: the pictures, or the file that they are in, which is read anew each time they are gone through.
        title: of the page.
        record: where they come from.
    """

    source: Iterable[ReadPicture] | Path = field(repr=False)
    title: str = "tokenq score"
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[ReadPicture]:
        """Go through the pictures, one after the other."""
        return read_pictures(self.source) if isinstance(self.source, Path) else iter(self.source)

    def html(self, path: str | Path) -> Path:
        """Write the page of all pictures, which opens from disk, and return its file."""
        write_picture_page(Path(path), self, title=self.title, record=self.record)
        return Path(path)

    def png(self, folder: str | Path) -> Path:
        """Write the credit maps of every picture as PNG, one a step and one of their sum, and return the folder.

        Raises:
            UserError: the disk is full, or the place cannot be written.
        """
        place = Path(folder)
        with disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            for number, one in enumerate(self):
                stem = f"{number:06d}-{_STRANGE.sub('-', one.trace.id)[:60]}"
                maps = {"picture": one.png, "sum": heat_png(one.maps.sum(0))}
                steps = zip(one.trace.levels, one.maps, strict=True)
                maps |= {f"step-{at:03d}-level-{level}": heat_png(own) for at, (level, own) in enumerate(steps, 1)}
                for name, content in maps.items():
                    (place / f"{stem}-{name}.png").write_bytes(content)
        return place
