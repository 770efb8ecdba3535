"""The study of words and drawing with a UNet of diffusers at 16 pixels: `python -m bench.unet_study --captions 600`.

The world of `tokenq demo --images` with every pixel a square of four. The image model is `small_image_model`, text
encoder and all from scratch. One seed and one strength for each system: what a few minutes of a processor come to.
"""

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bench.image_study import said
from tokenq.demo.pictures.learning import Pipeline, Strengths, WordGains, copied, learn
from tokenq.demo.pictures.painter import GRAIN, MISTAKEN
from tokenq.demo.pictures.pairs import labelled_pairs
from tokenq.demo.pictures.refiner import prompt_texts, well_read
from tokenq.demo.pictures.study import unrepeated
from tokenq.demo.pictures.systems import judge
from tokenq.demo.pictures.world import CANONICAL, VALUES, pictures_of, vocabulary
from tokenq.diffusion.denoising import train_denoising
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.small import small_image_model
from tokenq.stats.bootstrap import mean_interval

SYSTEMS = {
    "refiner": Strengths(0.05),
    "image": Strengths(gamma=0.003),
    "joint": Strengths(0.05, 0.003),
}
OWN, READING = 16, 150


def main() -> None:
    """Run one seed and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=600, help="steps of 64 pictures with captions")
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--test", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    words, seed = vocabulary(OWN, asked.seed), asked.seed
    refiner = well_read(words, seed, READING)
    _say("the refiner has read")
    painter = small_image_model(CANONICAL, seed)
    _learn_captions(painter, seed, asked.captions)
    start = Pipeline(refiner, painter)
    generator = torch.Generator().manual_seed(seed)
    for_pairs, test = unrepeated(words, [asked.pairs, asked.test], generator)
    systems = {"base": start}
    _row("base", start, words, test, seed)
    pairs = labelled_pairs(words, refiner, painter, for_pairs, generator)
    unequal = pairs.rewards[:, 0] != pairs.rewards[:, 1]
    _say(f"{len(pairs)} pairs, {int(unequal.sum())} of pictures that are not worth the same")
    for name, strengths in SYSTEMS.items():
        (learner,) = (copied(one) for one in learn(start, pairs, strengths, seed, epochs=1, adapter=attention_gains))
        systems[name] = learner
        _row(name, learner, words, test, seed)


def attention_gains(denoiser: nn.Module) -> list[nn.Parameter]:
    """Give every channel of values in attention to the prompt a gain, and return the gains' logarithms."""
    found = []
    for name, layer in denoiser.named_modules():
        if name.endswith("attn2.to_v"):
            gains = WordGains(len(layer.weight))
            parametrize.register_parametrization(layer, "weight", gains)
            found.append(gains.logarithms)
    return found


def _learn_captions(painter: ImageModel, seed: int, steps: int) -> None:
    """Train the UNet and its text encoder on pictures with captions of which `MISTAKEN` of the words are wrong."""
    dice = torch.Generator().manual_seed(seed)
    values = torch.randint(VALUES, (4096, 3), generator=dice)
    others = (values + torch.randint(1, VALUES, values.shape, generator=dice)) % VALUES
    mistaken = torch.rand(values.shape, generator=dice) < MISTAKEN
    large = pictures_of(values).repeat_interleave(2, -1).repeat_interleave(2, -2)
    pictures: Tensor = large + GRAIN * torch.randn(large.shape, generator=dice)
    losses: list[float] = []

    def told(step: int, loss: float) -> None:
        losses.append(loss)
        if (step + 1) % 50 == 0:
            _say(f"step {step + 1} of {steps}: mean loss of the last 50 {sum(losses[-50:]) / 50:.4f}")

    captions = prompt_texts(torch.where(mistaken, others, values))
    train_denoising(painter, captions, pictures, steps=steps, batch=64, seed=seed, told=told)
    for weight in painter.parts.text_network.parameters():
        weight.requires_grad_(False)


def _row(name, pipeline, words, test, seed):
    found = judge(words, pipeline, test, seed + 2)
    columns = (found.rewards, found.rewards == 3, found.worded == 3, found.as_told == 3, found.as_told)
    _say(" | ".join([f"| {name}", *(said(vars(mean_interval(one.double().numpy()))) for one in columns)]) + " |")


def _say(text: str) -> None:
    print(f"{time.process_time():6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
