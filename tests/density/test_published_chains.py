"""The published chains, from the hub: densities by step as the paper has them. Cannot run without the network."""

import json

import pytest

from tokenq.density.backends import named
from tokenq.density.measures import PUBLISHED, measured

pytestmark = pytest.mark.hub


@pytest.mark.parametrize("config", ["annotated", "unannotated"])
def test_published_densities(config, monkeypatch):
    """The data's own column first, then ours by spaCy (en_core_web_sm is to be there), then the rules' rise."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("spacy")
    split = "test" if config == "annotated" else "train"
    rows = list(datasets.load_dataset("griffin/chain_of_density", config, split=split))[:100]
    by_name = {"rules": named("rules"), "spacy": named("spacy:en_core_web_sm")}
    means = {}
    for name, entities in by_name.items():
        chains = [measured(_texts(row["prediction"]), entities) for row in rows]
        means[name] = [sum(chain[step].density for chain in chains) / len(chains) for step in range(5)]
    assert means["spacy"] == pytest.approx(PUBLISHED, abs=0.015)
    assert all(later > earlier for earlier, later in zip(means["rules"], means["rules"][1:], strict=False))


def _texts(found):
    return json.loads(found) if isinstance(found, str) else list(found)
