"""Words and drawing learnt apart and together: `python -m bench.image_study --output FOLDER --seeds 0 1 2`.

Each seed is a `tokenq demo --images` in a folder of its own; what is there already is not done again. Prints the table
of systems and that of credit, each seed beside the others.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenq.demo.config import DemoConfig
from tokenq.demo.demonstration import demonstrate
from tokenq.files import read_json

COLUMNS = (
    "drawn_right",
    "prompt_right",
    "drawn_as_told",
    "paraphrased",
    "fall",
    "below_joint",
    "below_joint_paraphrased",
)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    studies = [_study(asked.output / str(seed), seed, quick=asked.quick) for seed in asked.seeds]
    print("\n".join([*systems_table(studies), "", *credit_table(studies)]))


def _study(folder: Path, seed: int, *, quick: bool) -> dict[str, Any]:
    found = folder / "images.json"
    if not found.exists():
        demonstrate(DemoConfig(output=str(folder), seed=seed, quick=quick, images=True))
    return dict(read_json(found))


def systems_table(studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of systems, seed after seed."""
    names = [column.replace("_", " ") for column in COLUMNS]
    lines = [
        "| system | seed | score | " + " | ".join(names) + " | chosen |",
        "|---|--:" + "|--:" * (len(names) + 1) + "|---|",
    ]
    for row in (row for study in studies for row in study["rows"]):
        score = said({"value": row["score"], "low": row["interval"][0], "high": row["interval"][1]})
        cells = [row["system"], str(row["seed"]), score, *(said(row[column]) for column in COLUMNS), row["strengths"]]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def credit_table(studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table of AUROC, a column for each seed."""
    seeds = [study["rows"][0]["seed"] for study in studies]
    lines = ["| what is wrong | read-out | " + " | ".join(f"seed {seed}" for seed in seeds) + " |"]
    lines.append("|---|---" + "|--:" * len(seeds) + "|")
    for title, found in studies[0]["credit"].items():
        for name in found:
            cells = [said(study["credit"][title][name]) for study in studies]
            lines.append("| " + " | ".join([title, name, *cells]) + " |")
    return lines


def said(one: Mapping[str, float]) -> str:
    """Return an estimate in words."""
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


if __name__ == "__main__":
    main()
