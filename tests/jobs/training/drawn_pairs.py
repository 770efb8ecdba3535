"""Pairs of pictures that a tiny image model drew, with their trajectories, beside the model and a tiny refiner."""

import json

import numpy as np
import torch
from tiny import tiny_model, tiny_tokenizer

from tokenq.diffusion.sampling import draw, spaced_steps
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.records.drawings import Trajectory, packed_trajectory

WORDS = ["a red square", "a blue circle", "a red circle"]
STEPS = 3


def write_pairs(folder, count=9):
    """Write image/, lm/ and pairs.jsonl, drawn.jsonl (the same with trajectories) and labels.jsonl; return the folder.

    Row n asks with one of three prompts and starts both of its pictures in the noise of seed n.
    """
    model = tiny_image_model(" ".join(WORDS).split())
    model.save(folder / "image")
    tiny_model("llama", layers=1).save_pretrained(folder / "lm")
    tiny_tokenizer("bytes").save_pretrained(folder / "lm")
    steps = spaced_steps(model.schedule, STEPS)
    rows = [_row(folder, number, model, steps) for number in range(count)]
    plain = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    labels = [
        {"prompt": row["prompt"], "completion": row["chosen" if n % 2 else "rejected"], "label": n % 2 == 1}
        for n, row in enumerate(rows)
    ]
    for name, some in (("drawn", rows), ("pairs", plain), ("labels", labels)):
        write_rows(folder / f"{name}.jsonl", some)
    return folder


def write_rows(path, rows):
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path):
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _row(folder, number, model, steps):
    row = {"prompt": f"draw {WORDS[number % 3].split()[-1]} {number % 4}"}
    for side, name in enumerate(("chosen", "rejected")):
        words = WORDS[(number + side) % 3]
        way = draw(model, model.encode([words]), [number], steps, torch.Generator().manual_seed(2 * number + side))
        model.pictures_of(way.latents[:, -1])[0].save(folder / f"{number}_{name}.png")
        stored = Trajectory(
            way.latents[0].numpy(), way.logps[0].double().numpy(), np.array(steps.levels), steps.eta, steps.guidance
        )
        (folder / f"{number}_{name}.safetensors").write_bytes(packed_trajectory(stored))
        row |= {name: f"{number}_{name}.png", f"{name}_prompt": words}
        row[f"{name}_trajectory"] = f"{number}_{name}.safetensors"
    return row
