"""Image models whose denoiser is a formula, and tiny pipelines of diffusers, built in code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.pipelines import quiet
from tokenq.diffusion.schedule import Schedule
from tokenq.diffusion.small import word_tokenizer

WORDS = ("red", "blue", "square", "cross")


@dataclass(frozen=True)
class FormulaParts:
    """Parts of a model that knows x̂_0 by a formula of (x, α, σ), and says it as its schedule's prediction."""

    schedule: Schedule
    picture: Callable[[Tensor, Tensor, Tensor], Tensor]
    text_network: None = None

    def encode(self, prompts: Any, say: Any) -> Mapping[str, Tensor]:
        return {"lengths": torch.tensor([[float(len(prompt))] for prompt in prompts])}

    def output(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        x0 = self.picture(noisy, *self.schedule.at(levels, noisy))
        return self.schedule.target(x0, levels, self.schedule.to_noise(x0, noisy, levels))


def formula_model(schedule: Schedule, picture: Callable[[Tensor, Tensor, Tensor], Tensor], shape=(1,)) -> ImageModel:
    return ImageModel("formula", nn.Linear(1, 1), schedule, shape, FormulaParts(schedule, picture))


def gaussian_picture(mean: float, sd: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """E[x_0 | x] for x_0 ~ N(mean, sd²): the mean and x weighed by their precisions."""
    return lambda x, alpha, sigma: mean + alpha * sd**2 / (alpha**2 * sd**2 + sigma**2) * (x - alpha * mean)


def _clip(projection: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(word_tokenizer(WORDS)),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _vae(latent_channels: int, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=8,
        **more,
    )


def _t5() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -1.0) for word in WORDS)]
    t5 = T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=None, model_max_length=512)
    config = T5Config(vocab_size=len(t5), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config), t5


def _unet(cross: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )


def stable_diffusion() -> Any:
    """A StableDiffusionPipeline of 4×4 latents that predicts ε, with PNDM as Stable Diffusion 1.5 has it."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return StableDiffusionPipeline(
        _vae(4), _clip(False), word_tokenizer(WORDS), _unet(16), scheduler, None, None, requires_safety_checker=False
    )


def stable_diffusion_xl() -> Any:
    """A StableDiffusionXLPipeline with two text encoders and pooled states."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 16,
    }
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    words = word_tokenizer(WORDS)
    return StableDiffusionXLPipeline(_vae(4), _clip(False), _clip(True), words, words, _unet(32, **added), scheduler)


def stable_diffusion_3() -> Any:
    """A StableDiffusion3Pipeline: a flow transformer, two CLIP text encoders and T5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=4,
    )
    encoder, t5 = _t5()
    words = word_tokenizer(WORDS)
    vae = _vae(4, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return StableDiffusion3Pipeline(transformer, scheduler, vae, _clip(True), words, _clip(True), words, encoder, t5)


def pixart(size: int = 4) -> Any:
    """A PixArtAlphaPipeline: a transformer that attends to T5, and says a variance; of 128 it is told the size too."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=size,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        cross_attention_dim=24,
        caption_channels=32,
    )
    encoder, t5 = _t5()
    return PixArtAlphaPipeline(t5, encoder, _vae(4), transformer, DPMSolverMultistepScheduler())


def flux() -> Any:
    """A FluxPipeline: a flow transformer on patches with CLIP and T5, told the guidance that it imitates."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    encoder, t5 = _t5()
    vae = _vae(4, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return FluxPipeline(scheduler, vae, _clip(False), word_tokenizer(WORDS), encoder, t5, transformer)


def unconditional() -> Any:
    """A DDPMPipeline on 8×8 pixels."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )
    return DDPMPipeline(unet, DDPMScheduler())


PIPELINES = {
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "pixart": pixart,
    "flux": flux,
    "unconditional": unconditional,
}


def saved(name: str, folder: Any) -> Any:
    """Write a tiny pipeline with random weights of seed 0 and return its folder."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        PIPELINES[name]().save_pretrained(folder)
    return folder


def matcher(folder: Any) -> Any:
    """Write a tiny CLIP with random weights of seed 0, its processor beside it, and return its folder."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = word_tokenizer(WORDS)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {"vocab_size": len(words), "max_position_embeddings": 24, **ends, **size}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(
            text_config=text, vision_config={"image_size": 8, "patch_size": 4, **size}, projection_dim=8
        )
        CLIPModel(config).save_pretrained(folder)
        seen = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
        CLIPProcessor(seen, words).save_pretrained(folder)
    return folder
