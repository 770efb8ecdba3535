"""Every loss that TRL 1.16 has too: one batch, the same value and the same gradient of every weight, to 1e-6.

TRL pads and computes on its own; the models, both in float64, and the texts are common.
Policy and reference differ, so that nothing is 0 or log 2.
"""

from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from tokenq.core.losses import find_loss, find_sum
from tokenq.core.losses.reference_free import mean_logps
from tokenq.core.packing import pack
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.signals import with_mismatched
from tokenq.data.tokenize import tokenize
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import no_grad
from tokenq.training.objective import Objective

# TRL and what it imports warn about many things of their own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BETA = 0.3
PAIRS = [
    {"prompt": "the cat", "chosen": " sat on the mat", "rejected": " ran"},
    {"prompt": "now what? What did", "chosen": " you", "rejected": " I said: no, not now!"},
    {"prompt": "Question: how many", "chosen": " are there? 1 2 3", "rejected": " 4 5 6 7 8 9 0."},
    {"prompt": "a bird", "chosen": " sang a song", "rejected": " ran to the old red house"},
]

CASES = {
    # name of the case: (our loss, its parameters, TRL's loss_type, what else TRL is told)
    "dpo": ("dpo", {}, "sigmoid", {}),
    "sigmoid_norm": ("sigmoid_norm", {}, "sigmoid_norm", {}),
    "robust": ("robust", {"label_smoothing": 0.2}, "robust", {"label_smoothing": 0.2}),
    "hinge": ("hinge", {}, "hinge", {}),
    "ipo": ("ipo", {}, "ipo", {}),
    "exo": ("exo", {"label_smoothing": 0.1}, "exo_pair", {"label_smoothing": 0.1}),
    "nca": ("nca", {}, "nca_pair", {}),
    "bco_pair": ("bco_pair", {}, "bco_pair", {}),
    "sppo": ("sppo", {}, "sppo_hard", {}),
    "aot": ("aot", {}, "aot", {}),
    "aot_unpaired": ("aot_unpaired", {}, "aot_unpaired", {}),
    "apo_zero": ("apo_zero", {}, "apo_zero", {}),
    "apo_down": ("apo_down", {}, "apo_down", {}),
    "discopop": ("discopop", {"tau": 0.4}, "discopop", {"discopop_tau": 0.4}),
    "fdpo_forward_kl": ("fdpo_forward_kl", {}, "sigmoid", {"f_divergence_type": "forward_kl"}),
    "fdpo_js": ("fdpo_js", {}, "sigmoid", {"f_divergence_type": "js_divergence"}),
    # TRL's coefficient is 1 − α.
    "fdpo_alpha": (
        "fdpo_alpha",
        {"alpha": 0.3},
        "sigmoid",
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    ),
    "ld_dpo": ("ld_dpo", {"alpha": 0.4}, "sigmoid", {"ld_alpha": 0.4}),
    "wpo": ("wpo", {}, "sigmoid", {"use_weighting": True}),
    "rpo": ("dpo+0.2*sft", {}, ["sigmoid", "sft"], {"loss_weights": [1.0, 0.2]}),
    "three": ("dpo+0.5*hinge+0.1*sft", {}, ["sigmoid", "hinge", "sft"], {"loss_weights": [1.0, 0.5, 0.1]}),
}


@pytest.fixture(scope="module")
def models():
    policy, reference = (tiny_model("gpt_neox", layers=1, seed=seed, dtype=torch.float64) for seed in (0, 1))
    # Near each other, as policies and references are.
    with torch.no_grad():
        for own, other in zip(reference.parameters(), policy.parameters(), strict=True):
            own.copy_(other + 0.01 * own)
    return policy, reference


def ours(models, loss, parameters, groups):
    """Return our value and gradient of one batch."""
    policy, reference = (PackedLM(model, "segments") for model in models)
    batch = pack(groups)
    objective = Objective(find_sum(loss, parameters), BETA)
    policy.zero_grad()
    result = objective(policy, no_grad(reference), batch)
    value = objective.share(result, objective.weights(batch.actions))
    value.backward()
    found = gradients(policy.model)
    policy.release()
    reference.release()
    return value.item(), found


def theirs(trainer, monkeypatch):
    """Return TRL's value and gradient of its first batch, with float64 where it asks for float32."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.zero_grad()
    trainer.model.eval()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        value = trainer._compute_loss(trainer.model, dict(batch), False)
        value.backward()
    return value.item(), gradients(trainer.model)


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(got, want):
    assert got[0] == pytest.approx(want[0], rel=1e-6)
    assert got[1].keys() == want[1].keys()
    largest = max(grad.abs().max().item() for grad in want[1].values())
    assert largest > 1e-3
    for name, grad in want[1].items():
        torch.testing.assert_close(got[1][name], grad, rtol=1e-6, atol=1e-6 * largest)


@pytest.fixture(scope="module")
def groups():
    examples = read_examples([Row(row, f"row {i}") for i, row in enumerate(PAIRS)]).examples
    return tokenize(examples, tiny_tokenizer(), max_length=64).groups


def dpo_trainer(models, output, loss_type, options):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    arguments = trl.DPOConfig(
        output_dir=str(output),
        loss_type=loss_type,
        beta=BETA,
        max_length=64,
        per_device_train_batch_size=len(PAIRS),
        train_sampling_strategy="sequential",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    policy, reference = models
    data = datasets.Dataset.from_list(PAIRS)
    tokenizer = tiny_tokenizer()
    return trl.DPOTrainer(
        model=policy, ref_model=reference, args=arguments, train_dataset=data, processing_class=tokenizer
    )


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_trl(case, models, groups, tmp_path, monkeypatch):
    loss, parameters, loss_type, options = CASES[case]
    trainer = dpo_trainer(models, tmp_path, loss_type, options)
    assert_same(ours(models, loss, {"beta": BETA} | parameters, groups), theirs(trainer, monkeypatch))


def test_kto_is_that_of_trl(models, tmp_path, monkeypatch):
    """TRL takes mismatched responses from the row before, we from the row behind: so one of the two reads backwards."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    rows = [
        {"prompt": row["prompt"], "completion": row["chosen" if i % 3 else "rejected"], "label": bool(i % 3)}
        for i, row in enumerate(PAIRS)
    ]
    arguments = trl.KTOConfig(
        output_dir=str(tmp_path),
        beta=BETA,
        desirable_weight=1.5,
        undesirable_weight=0.7,
        max_length=64,
        per_device_train_batch_size=len(rows),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
    )
    policy, reference = models
    data, tokenizer = datasets.Dataset.from_list(rows), tiny_tokenizer()
    trainer = trl.KTOTrainer(
        model=policy, ref_model=reference, args=arguments, train_dataset=data, processing_class=tokenizer
    )
    wanted = theirs(trainer, monkeypatch)
    found = read_examples([Row(row, f"row {i}") for i, row in enumerate(rows[::-1])], selection="labelled").examples
    groups = with_mismatched(tokenize(found, tokenizer, max_length=64).groups, 64)
    given = {"beta": BETA, "desirable_weight": 1.5, "undesirable_weight": 0.7}
    assert_same(ours(models, "kto", given, groups), wanted)
    assert wanted[0] != pytest.approx(ours(models, "kto", given | {"mismatched": "none"}, groups)[0], rel=1e-3)


def random_logps(seed):
    """Return log-probs of four pairs of 1 to 5 tokens, with their means and sums, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.randint(1, 6, (8, 1), generator=generator)
    logps = (-3 * torch.rand(8, 5, generator=generator, dtype=torch.float64) * mask).requires_grad_()
    return TokenLogps(logps, mask)


@pytest.mark.parametrize("name", ["simpo", "cpo", "orpo"])
def test_losses_without_a_reference_are_those_of_trl(name):
    """Their functions, given the sums or means that their trainers form."""
    both = random_logps(4)
    pairs = PairLogps(both.select(torch.arange(4)), both.select(torch.arange(4, 8)))
    sums, means = (
        [function(side) for side in (pairs.chosen, pairs.rejected)] for function in (TokenLogps.sums, mean_logps)
    )
    nll = -means[0]
    told = SimpleNamespace(
        alpha=0.0, beta=BETA, label_smoothing=0.0, simpo_gamma=0.4, accelerator=SimpleNamespace(device="cpu")
    )
    if name == "orpo":
        trainer = pytest.importorskip("trl.experimental.orpo").ORPOTrainer
        theirs = nll - trainer.odds_ratio_loss(told, *means)[0]
        parameters = {"odds_weight": BETA}
    else:
        trainer = pytest.importorskip("trl.experimental.cpo").CPOTrainer
        told.loss_type = "simpo" if name == "simpo" else "sigmoid"
        theirs = trainer.cpo_loss(told, *(means if name == "simpo" else sums))[0]
        theirs = theirs if name == "simpo" else theirs + 0.5 * nll
        parameters = {"beta": BETA, "gamma": 0.4} if name == "simpo" else {"beta": BETA, "sft_weight": 0.5}
    mine = find_loss(name, parameters).function(pairs)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
    grads = [torch.autograd.grad(values.sum(), both.logps, retain_graph=True)[0] for values in (mine, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)
