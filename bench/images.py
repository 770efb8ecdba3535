"""Image models on a CPU: pictures per second of training and drawing, and what sharing prompts and noise saves.

    python -m bench.images [--threads 1] [--repetitions 3]

The tiny model draws 8×8 pixels, the small UNet of diffusers 16×16; their weights are drawn and not trained, except
where the spread of a pair's margin is measured: there the tiny model learns 64 coloured squares first, and then to
draw some of them otherwise. Encoding is that of the small pipeline's text encoder and of one of CLIP-L's size (123M
weights). The best of the repetitions counts, by the processor's clock and by the wall's.
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tokenq.diffusion.denoising import train_denoising
from tokenq.diffusion.errors import draw_levels, error_logps
from tokenq.diffusion.model import ImageModel, reference_of
from tokenq.diffusion.sampling import draw, spaced_steps
from tokenq.diffusion.small import small_image_model
from tokenq.diffusion.tiny import tiny_image_model

COLOURS, PLACES = ("red", "green", "blue", "white"), tuple(f"place{number}" for number in range(16))
WORDS = (*COLOURS, *PLACES)
PROMPTS = [f"{colour} {place}" for colour in COLOURS for place in PLACES]


def main() -> None:
    """Measure, and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of a matrix product")
    parser.add_argument("--repetitions", type=int, default=3, help="of which the best counts")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    models = [(tiny_image_model(WORDS), 128, 200, 1024, 20), (small_image_model(WORDS), 64, 1, 16, 20)]
    show(("model", "weights", "what", "pictures", "processor, s", "pictures a second of it", "seconds"))
    for model, batch, steps, drawn, count in models:
        work = {
            f"training, {steps} steps of {batch}": (steps * batch, lambda m=model, s=steps, b=batch: trained(m, s, b)),
            f"drawing in {count} steps": (drawn, lambda m=model, n=drawn, c=count: drawings(m, n, c, 1.0)),
            "the same with guidance 3": (drawn, lambda m=model, n=drawn, c=count: drawings(m, n, c, 3.0)),
        }
        for what, (pictures, once) in work.items():
            processor, seconds = best(once, asked.repetitions)
            rate = pictures / processor
            shown = (f"{processor:.2f}", f"{rate:,.0f}", f"{seconds:.2f}")
            show((model.name, weights(model), what, pictures, *shown))
    print()
    show(("text encoder", "rows", "prompts encoded", "processor, s", "seconds"))
    for name, encode in encoders().items():
        for encoded, once in (("each row's", PROMPTS[:4] * 4), ("each different one", PROMPTS[:4])):
            processor, seconds = best(lambda e=encode, o=once: e(o), asked.repetitions)
            show((name, 16, f"{encoded}: {len(once)}", f"{processor:.2f}", f"{seconds:.2f}"))
    print()
    show(("noise and levels in a pair", "draws", "mean margin, nats", "sd over draws, nats"))
    for row in margins():
        show(row)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def show(row: Sequence[object]) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def best(once: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Return the least seconds, by the processor's clock and by the wall's."""
    found = []
    for _ in range(repetitions):
        begin = time.process_time(), time.perf_counter()
        once()
        found.append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    return min(one[0] for one in found), min(one[1] for one in found)


def weights(model: ImageModel) -> str:
    """Return the number of the denoiser's weights."""
    return f"{sum(weight.numel() for weight in model.denoiser.parameters()):,}"


def trained(model: ImageModel, steps: int, batch: int) -> None:
    """Take some steps of plain training on noise."""
    train_denoising(model, PROMPTS, torch.randn(len(PROMPTS), *model.shape), steps=steps, batch=batch)


def drawings(model: ImageModel, count: int, steps: int, guidance: float) -> None:
    """Draw so many pictures side by side."""
    told = model.encode([PROMPTS[place % len(PROMPTS)] for place in range(count)])
    how = spaced_steps(model.schedule, steps, guidance=guidance)
    draw(model, told, list(range(count)), how, torch.Generator().manual_seed(0))


def encoders() -> dict[str, Callable[[list[str]], object]]:
    """Return what encodes prompts as given, by name: the small text encoder, and CLIP-L at 77 tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    small = small_image_model(WORDS)
    large = CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    ).eval()

    @torch.no_grad()
    def by_clip(prompts: list[str]) -> object:
        return large(torch.ones(len(prompts), 77, dtype=torch.long))

    @torch.no_grad()
    def by_small(prompts: list[str]) -> object:
        return small.parts.encode(prompts, lambda _: None)

    return {"small, 24 tokens": by_small, "CLIP-L, 77 tokens": by_clip}


def squares(flipped: bool) -> Tensor:
    """Return the pictures of `PROMPTS`: a square of the colour at its place on black; of other colours when flipped."""
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])
    pictures = -torch.ones(len(PROMPTS), 3, 8, 8)
    for place in range(len(PROMPTS)):
        row, column = divmod(place % 16, 4)
        colour = colours[place // 16].flip(0) if flipped else colours[place // 16]
        pictures[place, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = colour.view(3, 1, 1)
    return pictures


def margins() -> list[tuple[object, ...]]:
    """Return the spread of the margin of a pair as the error form estimates it, with noise shared in it and not.

    Both pictures are the reference's of the same prompt.
    """
    model = tiny_image_model(WORDS)
    train_denoising(model, PROMPTS, squares(False), steps=400)
    reference = reference_of(model)
    train_denoising(model, PROMPTS, squares(True), steps=40, learning_rate=3e-4)
    dice, told = torch.Generator().manual_seed(0), model.encode(PROMPTS)
    how = spaced_steps(model.schedule, 20)
    sides = [draw(reference, told, range(start, start + 64), how, dice).latents[:, -1] for start in (0, 64)]

    def levels() -> Tensor:
        return draw_levels(model.schedule, 64, 8, dice)

    def noise() -> Tensor:
        return torch.randn(64, 8, *model.shape, generator=dice)

    @torch.no_grad()
    def margin(noises: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        ratios = []
        for side, (levels, drawn) in zip(sides, noises, strict=True):
            said = [error_logps(one, side, levels, drawn, told).sum(1) for one in (model, reference)]
            ratios.append(said[0] - said[1])
        return ratios[0] - ratios[1]

    rows: list[tuple[object, ...]] = []
    ways = {
        "both shared": lambda: [(levels(), noise())] * 2,
        "levels shared": lambda: [(at, noise()) for at in [levels()] * 2],
        "neither": lambda: [(levels(), noise()) for _ in range(2)],
    }
    for name, noises in ways.items():
        found = torch.stack([margin(noises()) for _ in range(40)])
        rows.append((name, 8, f"{found.mean():.2f}", f"{found.std(0).mean():.2f}"))
    return rows


if __name__ == "__main__":
    main()
