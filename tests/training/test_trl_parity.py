"""The same numbers as TRL: loss, rewards and gradient norm of every step, on the same texts in the same order.

TRL tokenises, batches, pads and optimises on its own; only the model's weights, the texts and their order are common.
"""

import json
import math

import numpy as np
import pytest
from accelerate import Accelerator
from tiny import SAMPLE, tiny_model, tiny_tokenizer

from tokenq.core.losses import find_sum
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.tokenize import tokenize
from tokenq.models.forward.policy import no_grad
from tokenq.models.forward.proof import fastest_exact
from tokenq.models.identity import identify
from tokenq.models.reference_store import ReferenceStore
from tokenq.rundir import create_run
from tokenq.training.config import TrainConfig
from tokenq.training.job import Job
from tokenq.training.loop import fit
from tokenq.training.objective import Objective
from tokenq.training.source import Offline, total_steps

# TRL and what it imports warn about many things of their own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-4
PAIRS, BATCH, STEPS = 30, 6, 5
LEARNING_RATE = 2e-3
BETA = 0.3
COMPARED = {"loss": 0, "rewards/chosen": 0, "rewards/rejected": 0, "rewards/margins": 0, "rewards/accuracies": 1}
"""From which step on a metric is compared: before the first update policy and reference are one, every pair is tied,
and which side of the tie a pair falls on is rounding, in both systems."""


def written_pairs():
    """Pairs over the tiny tokenizer's words, of many lengths, so that TRL pads and prompts differ."""
    words = [word for text in SAMPLE for word in text.replace("\n", " ").split()]
    rng = np.random.default_rng(3)

    def text(low, high):
        return " ".join(rng.choice(words, rng.integers(low, high)))

    return [{"prompt": text(2, 24), "chosen": " " + text(1, 16), "rejected": " " + text(1, 16)} for _ in range(PAIRS)]


def train_config(run, loss):
    return TrainConfig(
        model="tiny",
        data=["pairs"],
        output=str(run),
        loss=loss,
        beta=BETA,
        batch_size=BATCH,
        tokens_per_batch=100,  # several micro-batches a step, and other ones than TRL's
        learning_rate=LEARNING_RATE,
        max_length=64,
        keep_checkpoints=0,
        seed=5,
    )


def source_of(groups, config):
    return Offline(groups, find_sum(config.loss).unit, config.batch_size, config.seed)


def tokenq_run(model, groups, config, parameters):
    lm, warnings = fastest_exact(model, max_length=config.max_length)
    assert warnings == []
    lm.accumulate_in_place()
    store = ReferenceStore(None, identify(model, "tiny"))
    store.fill(groups, no_grad(lm), config.tokens_per_batch)
    run = create_run(config.output)
    objective = Objective(find_sum(config.loss, {"beta": BETA, **parameters}), BETA)
    fit(
        Job(lm, source_of(store.with_logps(groups), config), objective, config, run, start_tolerance=1e-4),
        Accelerator(cpu=True),
    )
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def trl_run(folder, rows, output, *, loss_type, per_device, **options):
    """Return (TRL's own tokens, its log of every step) of a run over `rows` in their order."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    arguments = trl.DPOConfig(
        output_dir=str(output),
        loss_type=loss_type,
        beta=BETA,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=BATCH // per_device,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        num_train_epochs=1,
        max_length=64,
        train_sampling_strategy="sequential",
        model_init_kwargs={"dtype": "float32"},
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    trainer = trl.DPOTrainer(model=str(folder), args=arguments, train_dataset=datasets.Dataset.from_list(rows))
    tokens = [[row[f"{part}_ids"] for part in ("prompt", "chosen", "rejected")] for row in trainer.train_dataset]
    trainer.train()
    return tokens, [record for record in trainer.state.log_history if "loss" in record]


CASES = {
    "dpo": ("dpo", {}, {"loss_type": "sigmoid", "per_device": 3}),
    "ipo": ("ipo", {}, {"loss_type": "ipo", "per_device": 3}),
    "hinge": ("hinge", {}, {"loss_type": "hinge", "per_device": 2}),
    # TRL 1.16 ignores label_smoothing under its sigmoid loss. Its aot loss does not, and with one pair in a batch there
    # is nothing for it to sort: −(1−ε) log σ(β h) − ε log σ(−β h), the conservative DPO loss.
    "cdpo": ("cdpo", {"label_smoothing": 0.2}, {"loss_type": "aot", "per_device": 1, "label_smoothing": 0.2}),
}


@pytest.mark.parametrize("family", ["gemma3", "gpt_neox"])
@pytest.mark.parametrize("case", CASES)
def test_every_step_has_the_numbers_of_trl(case, family, tmp_path):
    loss, parameters, theirs = CASES[case]
    rows, tokenizer, model = written_pairs(), tiny_tokenizer(), tiny_model(family)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = train_config(tmp_path / "run", loss)
    examples = read_examples([Row(row, f"row {i}") for i, row in enumerate(rows)]).examples
    groups = tokenize(examples, tokenizer, max_length=config.max_length).groups
    assert len(groups) == PAIRS
    source = source_of(groups, config)
    assert total_steps(config, source.per_epoch) == STEPS
    order = [part.place for step in range(STEPS) for part in source.step(step)]

    tokens, theirs_log = trl_run(folder, [rows[place] for place in order], tmp_path / "trl", **theirs)
    ours_log = tokenq_run(model, groups, config, parameters)

    for place, (prompt, chosen, rejected) in zip(order, tokens, strict=True):
        group = groups[place]
        assert group.prompt_ids.tolist() == prompt
        assert [response.ids.tolist() for response in group.responses] == [chosen, rejected]
    assert len(ours_log) == len(theirs_log) == STEPS
    steps = list(zip(ours_log, theirs_log, strict=True))
    differences = {
        name: max(abs(ours[name] - theirs[name]) for ours, theirs in steps[first:]) for name, first in COMPARED.items()
    }
    assert max(differences.values()) <= TOLERANCE, differences
    for ours, theirs in steps:
        assert ours["learning_rate"] == pytest.approx(theirs["learning_rate"], rel=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    # The comparison means nothing unless the updates moved the numbers, by far more than the tolerance.
    margins = [record["rewards/margins"] for record in ours_log]
    assert abs(margins[0]) < TOLERANCE
    assert max(abs(margin) for margin in margins[1:]) > 1000 * TOLERANCE
    if case == "dpo":
        assert ours_log[0]["loss"] == pytest.approx(math.log(2), abs=TOLERANCE)
