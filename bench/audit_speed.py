"""How long an audit takes, and how much memory: `python -m bench.audit_speed --rows 100000`.

Rows of `bench.planted_faults`, with faults planted in them, are written to a file, and the command is run on it in a
process of its own, as a user runs it. Seconds are those of the wall and of the processor.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.planted_faults import clean_rows, planted


def main() -> None:
    """Write the rows, run the command, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--each", type=int, default=100, help="faults of each kind")
    asked = parser.parse_args()
    print("| rows | MB | findings | s | CPU s | peak GB |")
    print("|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for count in sorted(asked.rows):  # the peak of the children only grows
            print(line(Path(folder), count, asked.each), flush=True)


def line(folder: Path, count: int, each: int) -> str:
    """Return a line of the table."""
    data, output = folder / "rows.jsonl", folder / f"{count}.json"
    with data.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in planted(clean_rows(count, 0), each, 0).rows)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "tokenq", "audit", str(data), "--output", str(output)], check=True, capture_output=True
    )
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = len(json.loads(output.read_text())["findings"])
    size = data.stat().st_size / 1e6
    return f"| {count:,} | {size:.0f} | {found:,} | {seconds:.1f} | {used:.1f} | {after.ru_maxrss / 2**20:.2f} |"


if __name__ == "__main__":
    main()
