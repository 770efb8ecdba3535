"""Losses of reward models beside TRL 1.16's RewardTrainer: one batch, the same value and gradient of every weight.

TRL pads and pools on its own; the classifier, in float64, and the texts are common.
"""

import pytest
import torch
from test_trl_losses import PAIRS, assert_same, gradients
from tiny import tiny_model, tiny_tokenizer

from tokenq.core.losses import find_sum
from tokenq.core.packing import at_own_state, last_token, pack
from tokenq.data.examples import read_examples
from tokenq.data.files.local import Row
from tokenq.data.signals import with_margins
from tokenq.data.tokenize import tokenize
from tokenq.models.classifier import load_classifier
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.reward_lm import RewardLM
from tokenq.models.load import ModelSpec
from tokenq.training.objective import Objective

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROWS = [row | {"margin": 0.5 * place} for place, row in enumerate(PAIRS)]

CASES = {
    "bradley_terry": ("bradley_terry", {}, {}, False),
    "centred": ("bradley_terry", {"centre_weight": 0.05}, {"center_rewards_coefficient": 0.05}, False),
    "margin": ("margin_bradley_terry", {}, {}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_trl(case, tmp_path, monkeypatch):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    loss, parameters, options, with_margin = CASES[case]
    tokenizer = tiny_tokenizer()
    tiny_model("gpt_neox", layers=1, dtype=torch.float64).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    classifier = load_classifier(ModelSpec(str(tmp_path / "model")), tokenizer, ["reward"], 0)
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path / "trl"),
        max_length=64,
        per_device_train_batch_size=len(ROWS),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    rows = [row if with_margin else {k: v for k, v in row.items() if k != "margin"} for row in ROWS]
    trainer = trl.RewardTrainer(
        model=classifier, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        if "margin" in batch:
            batch["margin"] = batch["margin"].double()
        trainer.model.eval()
        trainer.model.zero_grad()
        value = trainer.compute_loss(trainer.model, dict(batch))
        value.backward()
    theirs = value.item(), gradients(trainer.model)
    model = trainer.model
    model.zero_grad()
    examples = read_examples([Row(row, "row") for row in rows], selection=find_sum(loss).selection).examples
    groups = with_margins(tokenize(examples, tokenizer, max_length=64).groups)
    groups = [at_own_state(group, last_token) for group in groups]
    lm = RewardLM(PackedLM(model, "segments"))
    objective = Objective(find_sum(loss, parameters), attributes=("reward",))
    packed = pack(groups)
    share = objective.share(objective(lm, None, packed), objective.weights(packed.actions))
    share.backward()
    ours = share.item(), gradients(model)
    lm.release()
    assert_same(ours, theirs)
