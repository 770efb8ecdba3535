"""Several runs of the demonstration side by side: `python -m bench.demo_seeds runs/demo0 runs/demo1 runs/demo2`.

Reads the numbers of each report and prints, for every line of its tables, each run's value and their mean with the
spread (standard deviation) over seeds. Intervals over posts stand in the reports themselves.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Line = tuple[str, str, str]
"""(table, row, column)."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of tokenq demo")
    parser.add_argument("--columns", nargs="*", help="columns to show; all others are left out")
    asked = parser.parse_args()
    reports = [json.loads((run / "report" / "numbers.json").read_text(encoding="utf-8")) for run in asked.runs]
    found = [dict(lines(report)) for report in reports]
    print(
        "| table | row | number | " + " | ".join(f"seed {report['seed']}" for report in reports) + " | mean ± spread |"
    )
    print("| --- | --- | --- |" + " --: |" * (len(reports) + 1))
    for line in found[0]:
        if not asked.columns or line[2] in asked.columns:
            print(row(line, [one.get(line) for one in found]))


def lines(report: Mapping[str, Any]) -> Iterator[tuple[Line, float]]:
    """Yield every number of a report's tables, the exact worlds' left out."""
    tables = [*report["summary"], *(table for section in report["sections"].values() for table in section["tables"])]
    for table in tables:
        for cells in table["rows"]:
            for name, cell in zip(table["head"][1:], cells[1:], strict=True):
                value = cell["value"] if isinstance(cell, dict) else cell
                if isinstance(value, int | float):
                    yield (table["title"], str(cells[0]), name), float(value)


def row(line: Line, values: Sequence[float | None]) -> str:
    """Return one line of the table."""
    known = [value for value in values if value is not None]
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    shown = [*("" if value is None else f"{value:.3f}" for value in values), f"{statistics.mean(known):.3f}{spread}"]
    return "| " + " | ".join([*line, *shown]) + " |"


if __name__ == "__main__":
    main()
