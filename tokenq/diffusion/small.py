"""A small UNet of diffusers with a small text encoder, built in code: a pipeline that trains from scratch on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch

from tokenq.diffusion.architectures import architecture_of
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.pipelines import PipelineParts, quiet
from tokenq.diffusion.schedule import schedule_of

LONGEST = 24
"""Tokens that the small text encoder reads, with both marks."""


def small_image_model(
    words: Sequence[str], seed: int = 0, size: int = 16, channels: Sequence[int] = (32, 64)
) -> ImageModel:
    """Return a `StableDiffusionPipeline` on pixels with random weights, to be trained with its text encoder.

    It predicts v on a thousand levels of the cosine schedule. It has no VAE: diffusers loads its folder with
    `DiffusionPipeline.from_pretrained(folder, vae=None)` and draws with `output_type="latent"`.

    Args:
        words: a token each; others are spelt in letters.
        seed: of the weights.
        size: height and width in pixels.
        channels: of the UNet's levels, each half as large as the one before; the last has attention to the prompt.
    """
    tokenizer = word_tokenizer(words)
    with torch.random.fork_rng(devices=[]), quiet():
        from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        torch.manual_seed(seed)
        marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=LONGEST,
                pad_token_id=tokenizer.pad_token_id,
                **marks,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            block_out_channels=tuple(channels),
            layers_per_block=1,
            down_block_types=(*["DownBlock2D"] * (len(channels) - 1), "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", *["UpBlock2D"] * (len(channels) - 1)),
            cross_attention_dim=64,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        scheduler = DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, steps_offset=1
        )
        pipeline: Any = StableDiffusionPipeline(
            vae=None,
            text_encoder=text,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    schedule = schedule_of({**scheduler.config, "_class_name": "DDPMScheduler"})
    named = {name: part and ["", type(part).__name__] for name, part in pipeline.components.items()}
    row = architecture_of("the small pipeline", named)
    shape = (3, size, size)
    return ImageModel("small", unet, schedule, shape, PipelineParts(pipeline, row, schedule, shape))


def word_tokenizer(words: Sequence[str]) -> Any:
    """Return a CLIP tokenizer in which each of these words of letters is one token."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789'-.,"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    merges: dict[tuple[str, ...], None] = {}
    for word in sorted({word.lower() for word in words}):
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges[tuple(pieces[:2])] = None
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            tokens.append(pieces[0])
    vocab = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=LONGEST)
