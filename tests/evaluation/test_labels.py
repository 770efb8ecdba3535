"""What people read instead of identifiers."""

import pytest

from tokenq.evaluation.localisation import ALL_TOKENS
from tokenq.evaluation.readouts import READOUTS, label
from tokenq.evaluation.step_scores import STEP_SCORES
from tokenq.evaluation.task_localisation import METRICS
from tokenq.evaluation.task_preference import REWARDS
from tokenq.evaluation.thresholds import RULES


@pytest.mark.parametrize(
    "identifier", [*READOUTS, *RULES, *STEP_SCORES, *METRICS, *REWARDS, *ALL_TOKENS, "reward_model"]
)
def test_no_label_is_an_identifier(identifier):
    assert "_" not in label(identifier).replace("π_ref", "")


def test_labels_tell_identifiers_apart():
    for table in (READOUTS, RULES, METRICS, REWARDS):
        assert len({label(name) for name in table}) == len(table)
