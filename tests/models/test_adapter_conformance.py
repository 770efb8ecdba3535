"""Every form of adapter on every family: read, written with, trained on and exported to the numbers of peft unmerged.

By default one form of every way through the code is tried on a tied model (Gemma 3), and a head on a model whose head
is its own; the rest is slow.
"""

import itertools
import json
from itertools import pairwise

import pytest
import torch
from adapter_forms import FAMILIES, FORMS, by_peft, groups_of, logps_of, make
from examples import cases
from safetensors import safe_open
from tiny import tiny_tokenizer

from tokenq.core.packing import pack
from tokenq.models.adapters import is_adapter_weight, leaves_base
from tokenq.models.export import export_policy
from tokenq.models.forward.policy import without_adapter
from tokenq.models.forward.proof import fastest_exact
from tokenq.models.forward.proof_cache import proven
from tokenq.models.forward.stepper import ModelStepper
from tokenq.models.load import ModelSpec, load_model, load_whole

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*shared tensor"),
    # peft tells of tied layers, of embeddings that it saves, and that switching biases off is no base.
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    # On all linear layers of a mixture it prepares for experts that are layers, which these are not.
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning:peft"),
]

SAME = 3e-5
"""Nats by which a log-prob may differ."""

EVERY_WAY = {"tokens alone", "grown, whole", "tokens", "bias in LoRA", "repeated layers", "DoRA"}
"""Forms that are tried by default; others go through the code as one of them does."""


def _by_default(family, form):
    return (form == "head" and family in ("llama", "gpt_neox")) or (family == "gemma3" and form in EVERY_WAY)


CASES = cases(
    pairs := [(family, form) for family in FAMILIES for form, one in FORMS.items() if family not in one.unlike],
    [pair for pair in pairs if _by_default(*pair)],
)
UNMERGEABLE = {"bias in LoRA"}
"""Forms that peft merges only where the layer below has a bias."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder with a model of every family."""
    root = tmp_path_factory.mktemp("bases")
    for family, (model, _) in FAMILIES.items():
        model().save_pretrained(root / family)
        tiny_tokenizer().save_pretrained(root / family)
    return root


@pytest.mark.parametrize(("family", "form"), CASES)
def test_it_is_read_written_with_trained_on_and_exported_as_peft_has_it(family, form, bases, tmp_path):
    base, folder = bases / family, tmp_path / "adapter"
    made = make(family, form, base, folder)
    truth, groups = by_peft(form, base, folder), groups_of(form)
    want = logps_of(truth, groups)
    assert (made - want).abs().max() < 1e-6

    read = load_model(ModelSpec(str(folder)))
    assert type(read).__name__ != "PeftModelForCausalLM" or form in UNMERGEABLE
    lm = proven(read)
    assert_same(scored(lm, groups), want)
    assert_same(stepped(lm, groups), want)

    beside = load_model(ModelSpec(str(base), adapter=str(folder)), trainable_adapter=True)
    plain = load_model(ModelSpec(str(base)))
    if leaves_base(beside):
        with without_adapter(beside):
            assert_same(logps_of(beside, groups), logps_of(plain, groups))
    trained, _ = fastest_exact(beside)
    assert_same(scored(trained, groups), want)

    take_a_step(trained, groups)
    moved = logps_of(trained.release(), groups)
    assert (moved - want).abs().max() > 1e-3
    export_policy(trained, tiny_tokenizer(), tmp_path / "policy", "card")
    assert_same(logps_of(by_peft(form, base, tmp_path / "policy"), groups), moved)
    again = proven(load_model(ModelSpec(str(tmp_path / "policy"))))
    assert_same(scored(again, groups), moved)
    assert json.loads((tmp_path / "policy" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    if not FORMS[form].grows:
        # Biases that are trained are the base's own, and peft writes them.
        assert base_weights(tmp_path / "policy") == [n for n in base_weights(folder) if n.endswith(".bias")]


MERGED = ("head", "embedding", "whole embedding", "grown, tokens")
ONE_EACH = {("gpt_neox", "whole embedding"), ("gpt2", "grown, tokens"), ("qwen3", "head"), ("llama", "embedding")}
"""What is merged by default: every form once, each in a family whose embedding, head or layers are another kind."""


@pytest.mark.parametrize(("family", "form"), cases(itertools.product(FAMILIES, MERGED), ONE_EACH))
def test_merged_and_saved_it_is_an_ordinary_model_of_the_same_numbers(family, form, bases, tmp_path):
    base, folder = bases / family, tmp_path / "adapter"
    want = make(family, form, base, folder)
    whole = load_whole(ModelSpec(str(folder)))
    assert all(p.requires_grad for p in whole.parameters())
    whole.save_pretrained(tmp_path / "whole")
    assert_same(logps_of(load_model(ModelSpec(str(tmp_path / "whole"))), groups_of(form)), want)


def assert_same(got, want):
    """Assert that two rows of log-probs are the same."""
    torch.testing.assert_close(got, want, rtol=0, atol=SAME)


def scored(lm, groups):
    """Return the log-probs of a packed batch, by the fastest way that was proven exact."""
    with torch.no_grad():
        return lm(pack(groups)).logps


def stepped(lm, groups):
    """Return the same log-probs, as a search finds them: token by token, all responses side by side."""
    responses = [(group.prompt_ids, response.ids) for group in groups for response in group.responses]
    stepper = ModelStepper(lm)
    found = []
    for prompt, ids in responses:
        at = stepper.start([prompt.tolist()])
        found.append(at.logps[0, int(ids[0])])
        for before, token in pairwise(ids.tolist()):
            at = stepper.step(at.state, torch.tensor([0]), torch.tensor([before]))
            found.append(at.logps[0, token])
    return torch.stack(found)


def take_a_step(lm, groups):
    """Move a policy by one step of plain gradient ascent, as training does."""
    lm.train()
    lm(pack(groups)).logps.mean().backward()
    grown = [p for p in lm.parameters() if p.grad is not None]
    assert grown
    size = torch.stack([p.grad.norm() for p in grown]).norm()
    with torch.no_grad():
        for parameter in grown:
            parameter += 0.3 * parameter.grad / size
    lm.eval()


def base_weights(folder):
    """Return the names of weights in an adapter's file that belong to the base (one adapter may lie below another)."""
    with safe_open(folder / "adapter_model.safetensors", "np") as file:
        names = list(file.keys())
    return sorted(n for n in names if ("base_layer" in n or "original_module" in n) and not is_adapter_weight(n))
