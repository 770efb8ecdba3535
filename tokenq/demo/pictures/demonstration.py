"""`tokenq demo --images`: one seed of the study as a page, and its table as `images.json`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tokenq.demo.pictures.blame import Drawings, pixel_areas, reference_drawings, stage_area, word_areas
from tokenq.demo.pictures.shown import credit_panels, credit_section, looked_at, systems_section
from tokenq.demo.pictures.study import QUICK, Sizes, World, begun, learnt, rows
from tokenq.demo.pictures.systems import Found
from tokenq.demo.stages import Stages
from tokenq.demo.steps import DemoReport
from tokenq.files import plain, write_json
from tokenq.records.schema import SCHEMA
from tokenq.stats.bootstrap import Estimate
from tokenq.terminal.progress import Progress

Areas = dict[str, dict[str, Estimate]]

LARGE = 1.0
"""A strength of denoising steps at which the noise of their log-ratios drowns what words say."""


def run_pictures(folder: Path, seed: int, *, quick: bool, stages: Stages) -> DemoReport:
    """Run one seed of the study, leave `images.json`, and return what it came to.

    Args:
        folder: where `images.json` goes.
        seed: of everything.
        quick: fewer of everything.
        stages: keeps the seconds of every stage.
    """
    sizes = QUICK if quick else Sizes()
    with Progress(1000) as progress:
        with stages("a refiner reads, an image model learns from captions, and pairs of pictures are labelled"):
            world = begun(sizes, seed, progress)
        with stages("five systems learn from the same labels"):
            found = learnt(world, sizes, progress)
        with stages("draw for requests that nothing was trained on"):
            table = rows(world, found)
        with stages("read words and pixels"):
            drawings = reference_drawings(world.start, world.test, seed + 3)
            areas = credit_areas(world, found, drawings)
    write_json(folder / "images.json", plain({"schema": SCHEMA, "rows": table, "credit": areas}))
    section = replace(systems_section(table), panels=looked_at(world, found, 8))
    credit = credit_section(areas, credit_panels(world, found["joint"], drawings, 6))
    return DemoReport([section, credit], [])


def credit_areas(world: World, found: Mapping[str, Found], drawings: Drawings) -> Areas:
    """Return by table and read-out how well credit finds what the program says is wrong; the joint system's first."""
    learners = {name: found[name].pipeline for name in ("joint", "refiner", "image")}
    painters = {name: learners[name].painter for name in ("joint", "image")}
    refiners = {name: learners[name] for name in ("joint", "refiner")}
    stages = {
        f"γ Σ steps − β Σ words, {name}": stage_area(
            world.words, found[name].pipeline, world.start, drawings, strengths
        )
        for name, strengths in (("joint", found["joint"].strengths), ("refiner", found["refiner"].strengths))
    }
    large = found["joint"].strengths._replace(gamma=LARGE)
    said = f"γ Σ steps − β Σ words, joint read with a γ of {LARGE:g}"
    stages[said] = stage_area(world.words, learners["joint"], world.start, drawings, large)
    return {
        "Words that are not what the labeller means": word_areas(world.words, refiners, world.start, drawings),
        "Pixels that are not as told, in pictures drawn otherwise": pixel_areas(
            painters, world.start.painter, drawings
        ),
        "Text at fault, or the drawing": stages,
    }
