"""What people read instead of identifiers."""

import pytest

from tokenq.evaluate.labels import label
from tokenq.evaluate.localisation import ALL_TOKENS
from tokenq.evaluate.readouts import READOUTS
from tokenq.evaluate.step_rules import RULES
from tokenq.evaluate.step_scores import STEP_SCORES
from tokenq.evaluate.task_localisation import METRICS
from tokenq.evaluate.task_preference import REWARDS


@pytest.mark.parametrize(
    "identifier", [*READOUTS, *RULES, *STEP_SCORES, *METRICS, *REWARDS, *ALL_TOKENS, "reward_model"]
)
def test_no_label_is_an_identifier(identifier):
    assert "_" not in label(identifier).replace("π_ref", "")


def test_labels_tell_identifiers_apart():
    for table in (READOUTS, RULES, METRICS, REWARDS):
        assert len({label(name) for name in table}) == len(table)
