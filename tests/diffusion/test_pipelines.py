"""Pipelines of diffusers: drawn step by step as diffusers draws, with LoRA or whole, saved and loaded by both."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_image_models import PIPELINES, pixart, saved

from tokenq.diffusion.errors import draw_levels, error_logps
from tokenq.diffusion.model import reference_of
from tokenq.diffusion.open import is_image_model, open_image_model
from tokenq.diffusion.pipelines import quiet, save_lora
from tokenq.diffusion.sampling import Steps, draw, initial_noise, spaced_steps, step_logps
from tokenq.diffusion.small import small_image_model
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.errors import UserError

diffusers = pytest.importorskip("diffusers")
SLOW_XL, SLOW_SD3 = (pytest.param(f"stable_diffusion_{name}", marks=pytest.mark.slow) for name in ("xl", "3"))
PROMPTS = ["red square", "blue cross", "red square"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: saved(name, tmp_path_factory.mktemp("pipelines") / name) for name in PIPELINES}


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def theirs(folder):
    with quiet():
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents_after(pipeline, **more):
    """The latents after every step but the last, by the pipeline itself."""
    found = []

    def keep(_pipeline, _step, _time, held):
        found.append(held["latents"])
        return {}

    with quiet():
        pipeline(output_type="latent", callback_on_step_end=keep, **more)
    return found[:-1]


@pytest.mark.integration
@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_a_unet_draws_as_diffusers_does(folders, name):
    """DDIM with η .6 and guidance 3 from the same noise and dice: latents after each step but the last."""
    pipeline = theirs(folders[name])
    kept = {key: pipeline.scheduler.config[key] for key in ("beta_start", "beta_end", "beta_schedule")}
    pipeline.scheduler = diffusers.DDIMScheduler(**kept, clip_sample=False, steps_offset=1)
    model = open_image_model(folders[name])
    noise = initial_noise(model, [1, 2])
    asked = {"num_inference_steps": 4, "eta": 0.6, "guidance_scale": 3.0, "latents": noise, "generator": dice()}
    found = latents_after(pipeline, prompt=PROMPTS[:2], **asked)
    # "leading" from 750 + 1 in strides of 250; level = timestep + 1.
    ours = draw(model, model.encode(PROMPTS[:2]), noise, Steps((752, 502, 252, 2, 0), 0.6, 3.0), dice())
    assert len(found) == 3
    for place, latents in enumerate(found, start=1):
        assert torch.allclose(ours.latents[:, place], latents, atol=1e-3), place


def test_a_flow_transformer_says_what_it_says_in_diffusers(folders):
    """One Euler step x + (σ_s − σ) v from noise alone, σ = 1, to the middle of time, σ_s = 3 · ½/(1 + 2 · ½) = ¾."""
    model = open_image_model(folders["stable_diffusion_3"])
    noise = initial_noise(model, [1, 2])
    asked = {"num_inference_steps": 2, "sigmas": [1.0, 0.5], "guidance_scale": 3.0, "latents": noise}
    (found,) = latents_after(theirs(folders["stable_diffusion_3"]), prompt=PROMPTS[:2], **asked)
    x0 = model.predict(noise, torch.tensor([1000, 1000]), model.encode(PROMPTS[:2]), 3.0)
    assert torch.allclose(noise + (0.75 - 1) * (noise - x0), found, atol=1e-4)
    trajectories = draw(model, model.encode(PROMPTS[:2]), noise, Steps((1000, 500, 0), 0.5, 3.0, "flow_sde"), dice())
    assert trajectories.logps.isfinite().all()


def test_pixart_draws_as_diffusers_does(tmp_path):
    """DDIM as above, on latents of 4×4 by a model that was trained at 128×128 and is told the size of the picture."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = pixart(128)
        built.scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
        built.save_pretrained(tmp_path)
    pipeline, opened = theirs(tmp_path), open_image_model(tmp_path)
    model = replace(opened, shape=(4, 4, 4), parts=replace(opened.parts, shape=(4, 4, 4)))
    noise = initial_noise(model, [1, 2])
    asked = {"num_inference_steps": 4, "eta": 0.6, "guidance_scale": 3.0, "latents": noise, "generator": dice()}
    size = {"height": 8, "width": 8, "use_resolution_binning": False, "clean_caption": False}
    found = []
    with quiet():
        pipeline(PROMPTS[:2], output_type="latent", callback=lambda _, __, now: found.append(now), **asked, **size)
    ours = draw(model, model.encode(PROMPTS[:2]), noise, Steps((752, 502, 252, 2, 0), 0.6, 3.0), dice())
    assert len(found) == 4
    for place, latents in enumerate(found[:-1], start=1):
        assert torch.allclose(ours.latents[:, place], latents, atol=1e-3), place


def test_flux_in_patches_says_what_it_says_in_diffusers(folders, monkeypatch):
    """The same Euler step, on latents of 4×4, which are 2×2 patches, each pipeline told that this is its size."""
    monkeypatch.setattr("tokenq.diffusion.architectures._FLUX_SIZE", (4, 4))
    model, pipeline = open_image_model(folders["flux"]), theirs(folders["flux"])
    assert model.shape == (4, 4, 4)
    noise = initial_noise(model, [1, 2])
    patches = pipeline._pack_latents(noise, 2, 4, 4, 4)
    asked = {"num_inference_steps": 2, "sigmas": [1.0, 0.5], "guidance_scale": 3.5, "latents": patches}
    (found,) = latents_after(pipeline, prompt=PROMPTS[:2], height=8, width=8, **asked)
    x0 = model.predict(noise, torch.tensor([1000, 1000]), model.encode(PROMPTS[:2]))
    stepped = pipeline._pack_latents(noise + (0.75 - 1) * (noise - x0), 2, 4, 4, 4)
    assert torch.allclose(stepped, found, atol=1e-4)
    shown = [model.pictures_of(one)[0] for one in (noise[:1], noise[1:])]
    assert [picture.size for picture in shown] == [(8, 8)] * 2


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_3"])
def test_latents_and_pictures_go_through_the_vae_as_in_diffusers(folders, name):
    model, pipeline, held = open_image_model(folders[name]), theirs(folders[name]), []

    def keep(_pipeline, _step, _time, now):
        held.append(now["latents"])
        return {}

    noise = initial_noise(model, [1])
    with quiet():
        drawn = pipeline(prompt="red", num_inference_steps=1, latents=noise, callback_on_step_end=keep).images[0]
    ours = model.pictures_of(held[-1])[0]
    assert np.abs(np.asarray(ours, int) - np.asarray(drawn, int)).max() <= 1  # rounded in another order
    pixels = torch.from_numpy(np.asarray(drawn, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    means = pipeline.vae.encode(pixels).latent_dist.mean
    shift = {"stable_diffusion": 0.0, "stable_diffusion_3": 0.06}[name]
    assert torch.allclose(model.latents_of([drawn]), (means - shift) * 0.18215, atol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["stable_diffusion", SLOW_XL, "stable_diffusion_3", "pixart", "unconditional"])
def test_a_pipeline_draws_learns_and_is_written_back(folders, name, tmp_path):
    model = open_image_model(folders[name])
    said = []
    told = model.encode(PROMPTS, said.append)
    assert said == (["A model without a text encoder does not read prompts."] if name == "unconditional" else [])
    drawn = draw(model, told, [1, 2, 3], spaced_steps(model.schedule, 3, eta=0.5), dice())
    assert torch.allclose(step_logps(model, drawn, told), drawn.logps, rtol=1e-4, atol=1e-2)
    pictures = model.pictures_of(drawn.latents[:, -1])
    assert [picture.size for picture in pictures] == [(8, 8)] * 3
    latents = model.latents_of(pictures)
    levels = draw_levels(model.schedule, 3, 2, dice())
    noise = torch.randn(3, 2, *model.shape, generator=dice())
    (-error_logps(model, latents, levels, noise, told, "constant").sum()).backward()
    with torch.no_grad():
        for weight in model.denoiser.parameters():
            weight -= 1e-4 * weight.grad
    moved = step_logps(model, drawn, told)
    model.save(tmp_path / "saved")
    again = open_image_model(tmp_path / "saved", reference=True)
    found = step_logps(again, drawn, again.encode(PROMPTS))
    assert torch.allclose(found, moved, rtol=1e-4, atol=1e-2)
    assert not torch.allclose(found, drawn.logps, rtol=1e-4, atol=1e-2)
    assert not found.requires_grad
    assert type(theirs(tmp_path / "saved")).__name__ == type(model.parts.pipeline).__name__


def with_lora(folder):
    model = open_image_model(folder, lora_rank=2)
    trained = [weight for weight in model.denoiser.parameters() if weight.requires_grad]
    assert {weight.numel() <= 2 * 32 for weight in trained} == {True}
    with torch.no_grad():
        for weight in trained:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=dice()))
    return model


@pytest.mark.integration
@pytest.mark.parametrize("name", ["stable_diffusion", SLOW_SD3])
def test_a_lora_has_its_base_as_reference_and_is_exported_both_ways(folders, name, tmp_path):
    base, model = open_image_model(folders[name]), with_lora(folders[name])
    x, levels, told = initial_noise(model, [1, 2, 3]), torch.tensor([200, 500, 900]), model.encode(PROMPTS)
    before, after = base.predict(x, levels, told), model.predict(x, levels, told)
    assert (before - after).abs().max() > 1e-3
    assert torch.allclose(reference_of(model).predict(x, levels, told), before, atol=1e-5)
    assert torch.equal(model.predict(x, levels, told), after)  # the adapter is on again
    model.save(tmp_path / "merged")
    assert torch.allclose(open_image_model(tmp_path / "merged").predict(x, levels, told), after, atol=1e-4)
    save_lora(model, tmp_path / "lora")
    pipeline = theirs(folders[name])
    pipeline.load_lora_weights(tmp_path / "lora")
    loaded = getattr(pipeline, model.parts.row.part)
    outputs = [model.parts.output(network, x, levels, told.columns) for network in (loaded, model.denoiser)]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-4)
    with pytest.raises(UserError, match="has no LoRA"):
        save_lora(base, tmp_path / "none")


def test_a_whole_model_has_a_copy_as_reference(folders):
    model = open_image_model(folders["stable_diffusion"])
    reference = reference_of(model)
    x, told = initial_noise(model, [1]), model.encode(["red"])
    before = model.predict(x, torch.tensor([500]), told)
    with torch.no_grad():
        next(model.denoiser.parameters()).mul_(2)
    found = reference.predict(x, torch.tensor([500]), told)
    assert torch.allclose(found, before)
    assert not found.requires_grad


def test_weights_in_half_precision_have_densities_in_single(folders):
    model = open_image_model(folders["stable_diffusion"], dtype=torch.bfloat16, lora_rank=2)
    told = model.encode(PROMPTS[:1])
    drawn = draw(model, told, [1], spaced_steps(model.schedule, 3, guidance=2.0), dice())
    assert (drawn.latents.dtype, drawn.logps.dtype) == (torch.float32, torch.float32)
    found = step_logps(model, drawn, told)
    assert found.dtype == torch.float32
    assert torch.allclose(found, drawn.logps, rtol=0.05, atol=5)
    found.sum().backward()
    weights = [weight for weight in model.denoiser.parameters() if weight.requires_grad]
    assert {weight.grad.dtype for weight in weights} == {torch.float32}


def test_a_prompt_that_is_not_read_to_its_end_is_said(folders):
    said = []
    long = "red " * 30
    open_image_model(folders["stable_diffusion_3"]).encode([long, "blue"], said.append)
    # Two CLIPs read 24 tokens with both marks, of 32; T5 256.
    assert [text.split("… ")[1] for text in said] == [
        "has 32 tokens; text_encoder reads 24: its last 8 are cut.",
        "has 32 tokens; text_encoder_2 reads 24: its last 8 are cut.",
    ]


def test_a_pipeline_that_lacks_a_part_is_refused_by_its_name(folders, tmp_path):
    def broken(change, name="stable_diffusion"):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folders[name], folder)
        change(folder)
        with pytest.raises(UserError) as caught:
            open_image_model(folder)
        return str(caught.value)

    def index(**changes):
        def change(folder):
            held = json.loads((folder / "model_index.json").read_text())
            (folder / "model_index.json").write_text(json.dumps(held | changes))

        return change

    def with_code(folder):
        (folder / "evil.py").write_text("raise SystemExit('this ran')")
        index(_class_name=["evil", "Evil"])(folder)

    assert "folder of the pipeline's vae is missing" in broken(lambda folder: shutil.rmtree(folder / "vae"))
    assert "is not valid JSON" in broken(lambda folder: (folder / "model_index.json").write_text("{"))
    assert "Download the pipeline again" in broken(lambda folder: (folder / "model_index.json").write_text("{"))
    assert "has no tokenizer in" in broken(index(tokenizer=[None, None]))
    assert "has no vae, and its latents of 4 channels" in broken(index(vae=[None, None]))
    assert "denoiser UNet3DConditionModel is not supported" in broken(index(unet=["diffusers", "UNet3DConditionModel"]))
    assert "never run" in broken(with_code)
    assert "safetensors" in broken(
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "x.bin")
    )
    with pytest.raises(UserError, match="is no image model"):
        open_image_model(tmp_path)
    assert is_image_model(folders["unconditional"])
    assert not is_image_model(tmp_path)


def test_diffusers_that_is_not_installed_is_said(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'tokenq\[images\]'"):
        open_image_model(folders["unconditional"])


def test_tiny_models_and_pipelines_go_through_one_opener(tmp_path):
    model = tiny_image_model(("red", "blue"), 3)
    model.save(tmp_path / "tiny")
    again = open_image_model(tmp_path / "tiny")
    x, levels = initial_noise(model, [1, 2]), torch.tensor([3, 90])
    assert torch.equal(
        model.predict(x, levels, model.encode(["red", "green"])),
        again.predict(x, levels, again.encode(["red", "green"])),
    )
    assert sum(weight.numel() for weight in model.denoiser.parameters()) == 328_056
    with pytest.raises(UserError, match="no attention"):
        open_image_model(tmp_path / "tiny", lora_rank=4)


def test_a_small_unet_is_written_and_read(tmp_path):
    model = small_image_model(("red", "blue"), size=8, channels=(8, 16))
    model.save(tmp_path / "small")
    again = open_image_model(tmp_path / "small")
    x, levels = initial_noise(model, [1]), torch.tensor([300])
    assert model.parts.text_network is not None
    assert torch.allclose(
        model.predict(x, levels, model.encode(["blue"])), again.predict(x, levels, again.encode(["blue"])), atol=1e-5
    )
