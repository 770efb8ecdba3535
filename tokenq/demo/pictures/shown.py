"""The study as sections of a page: the table of systems, where credit falls, and pictures to look at."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenq.demo.pictures.blame import Drawings, pixel_credit, word_credit
from tokenq.demo.pictures.painter import paint
from tokenq.demo.pictures.refiner import prompt_texts
from tokenq.demo.pictures.study import World
from tokenq.demo.pictures.systems import TRIED, Found
from tokenq.demo.pictures.world import SHAPE, drawn, pictures_of
from tokenq.diffusion.tiny import pictures_of as as_pictures
from tokenq.figures.section import Panel, Section, Verdict
from tokenq.stats.bootstrap import Estimate
from tokenq.stats.outcome import Chart, Curve, Table

COMPARED = ("refiner", "image", "separate")
"""The systems that learning both together is measured against."""

LOOKED_AT = (
    "Requests that nothing was trained on, and what each system drew, all from the same noise. First what the labeller "
    "means; below each picture the prompt that the system's refiner wrote."
)
CREDITED = (
    "Pictures of the base system that are not what it was told. Above each: the request → the refined prompt, each "
    "word with log π/π_ref by the joint system, in nats. Credit of pixels: their part of log π/π_ref of all denoising "
    "steps, then of each step from the noise on. Red: less likely than under the reference; blue: likelier; each map "
    "has a scale of its own."
)

SIZE = 9
"""Screen pixels of a pixel, so that a browser has nothing to blur."""


def systems_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """Return the table of systems with its claim."""
    by_name = {row["system"]: row for row in rows}
    ahead = {name: by_name[name]["below_joint"] for name in COMPARED}
    columns = ("score", "drawn right", "prompt right", "drawn as told", "joint − this", "paraphrased", "fall", "chosen")
    names = ("drawn_right", "prompt_right", "drawn_as_told", "below_joint", "paraphrased", "fall", "strengths")
    table = Table(
        "What came of requests that nothing was trained on",
        ("system", *columns),
        [[row["system"], _score(row), *(row[name] for name in names)] for row in rows],
        "Score: how many of colour, shape and place are drawn as the labeller means them, of 3; paraphrased: the same "
        "where requests are in words that no pair contains; fall: the first minus the second. Shares of requests: "
        "drawn right (all three as meant), prompt right (the refined prompt says what is meant), drawn as told (the "
        "picture is what the prompt says). joint − this: the score of joint minus that of the row, request by request. "
        f"Chosen: {_strengths()}, of which validation requests chose. Brackets: 95 % intervals over test requests of "
        "one seed.",
    )
    curve = Curve("score", list(range(len(rows))), [_score(row) for row in rows])
    chart = Chart("Five systems at equal labels", "", "true reward, of 3", [curve], labels=list(by_name))
    said = "; ".join(f"{_signed(one)} against {name}" for name, one in ahead.items())
    falls = ", ".join(f"{name} {by_name[name]['fall'].value:.2f}" for name in by_name)
    return Section(
        name="systems",
        title="Is it better to learn words and drawing together?",
        claim="With words and denoising steps as the actions of one response (arXiv 2404.12358, eq. 18), both learn "
        "more from the same labels than apart.",
        verdict=_verdict(list(ahead.values())),
        reading=f"Score of joint minus that of another system, of 3: {said}.\n"
        f"In words that no pair contains, scores fall by: {falls}.",
        legend=LOOKED_AT,
        tables=[table],
        charts=[chart],
    )


def _strengths() -> str:
    """Return what strengths are tried, in words."""
    tried = [one for settings in TRIED.values() for one in settings]
    words, steps = (sorted({value for one in tried if (value := getattr(one, name))}) for name in ("beta", "gamma"))
    listed = [" or ".join(f"{value:g}" for value in values) for values in (words, steps)]
    return (
        f"β {listed[0]} for words, γ {listed[1]} for denoising steps, with or without denoising of chosen pictures "
        "(anchor)"
    )


def _score(row: Mapping[str, Any]) -> Estimate:
    low, high = row["interval"]
    return Estimate(row["score"], low, high, row["drawn_right"].n)


def _verdict(ahead: Sequence[Estimate]) -> Verdict:
    """Return "reproduced" where every interval is above 0, "in part" where some are."""
    above = [one.low > 0 for one in ahead]
    return "reproduced" if all(above) else "in part" if any(above) else "not reproduced"


def credit_section(areas: Mapping[str, Mapping[str, Estimate]], panels: Sequence[Panel]) -> Section:
    """Return how well credit finds what was wrong, with pictures.

    Args:
        areas: title of a table → read-out → AUROC; the first read-out of each is the joint system's.
        panels: pictures with their credit.
    """
    tables = [
        Table(title, ("read-out", "AUROC"), [[name, one] for name, one in found.items()])
        for title, found in areas.items()
    ]
    firsts = [next(iter(found.values())) for found in areas.values()]
    best = [max(found.values(), key=lambda one: one.value) for found in areas.values()]
    held = [one.low > 0.5 and one.value >= other.value for one, other in zip(firsts, best, strict=True)]
    said = "; ".join(
        f"{title[0].lower()}{title[1:]}: {first.value:.2f} by the joint system, {top.value:.2f} by the best read-out"
        for title, first, top in zip(areas, firsts, best, strict=True)
    )
    return Section(
        name="credit",
        title="Which word, which pixels, which of the two stages?",
        claim="Log-ratios of what was learnt tell which part of a response the preference was about.",
        verdict="reproduced" if all(held) else "in part" if any(one.low > 0.5 for one in firsts) else "not reproduced",
        reading=f"AUROC against the program's labels: {said}.",
        tables=tables,
        panels=panels,
        legend=CREDITED,
    )


def looked_at(world: World, found: Mapping[str, Found], count: int) -> list[Panel]:
    """Return for some test requests the picture of every system, from the same noise, and its prompt."""
    requests, wanted = world.test[:count], pictures_of(world.words.values(world.test[:count]))
    columns: list[tuple[str, Tensor, list[str]]] = [("meant", wanted, [""] * count)]
    for name, one in found.items():
        generator = torch.Generator().manual_seed(world.seed + 2)
        noise = torch.randn((count, *SHAPE), generator=generator)
        prompts = one.pipeline.refiner.write(requests, generator)
        columns.append((name, paint(one.pipeline.painter, prompts, noise, generator)[:, -1], prompt_texts(prompts)))
    return [
        Panel(
            f"“{text}”",
            [
                (f"{name}: {said[place]}" if said[place] else name, png(drawings[place]))
                for name, drawings, said in columns
            ],
        )
        for place, text in enumerate(world.words.texts(requests))
    ]


def credit_panels(world: World, joint: Found, drawings: Drawings, count: int) -> list[Panel]:
    """Return pictures that the reference drew otherwise than told, with the credit of their pixels and words."""
    seen = drawn(drawings.latents[:, -1])
    off = (seen != drawings.prompts).any(1).nonzero()[:count, 0]
    some = Drawings(*(values[off] for values in drawings))
    words = word_credit(joint.pipeline, world.start, some)
    credit = pixel_credit(joint.pipeline.painter, world.start.painter, some)
    panels = []
    for place, text in enumerate(world.words.texts(some.requests)):
        told = prompt_texts(some.prompts[place : place + 1])[0].split()
        said = ", ".join(f"{word} {value:+.2f}" for word, value in zip(told, words[place].tolist(), strict=True))
        said = said.replace("-", "−")
        steps = [(f"step {n}", heat_png(one)) for n, one in enumerate(credit[place], 1)]
        pictures = [
            ("told", png(pictures_of(some.prompts[place : place + 1])[0])),
            ("drawn", png(some.latents[place, -1])),
        ]
        whole = ("credit of pixels", heat_png(credit[place].sum(0)))
        panels.append(Panel(f"“{text}” → {said} nats", [*pictures, whole, *steps]))
    return panels


def png(picture: Tensor) -> bytes:
    """Return a picture [3, h, w] in −1..1 as a PNG, each pixel a square."""
    image = as_pictures(picture[None])[0]
    held = io.BytesIO()
    image.resize((image.width * SIZE, image.height * SIZE), 0).save(held, "PNG")
    return held.getvalue()


def heat_png(credit: Tensor) -> bytes:
    """Return [h, w] as a PNG: red below 0, blue above, white at 0; the strongest colour is its largest size."""
    share = credit / credit.abs().max().clamp(min=1e-9)
    loss, gain = share.clamp(max=0).neg(), share.clamp(min=0)
    channels = torch.stack([1 - gain, 1 - gain - loss + 0.25 * gain, 1 - loss])
    return png(2 * channels.clamp(0, 1) - 1)


def _signed(one: Estimate) -> str:
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]".replace("-", "−")
