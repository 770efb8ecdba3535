"""What a page says of where it comes from."""

from every_page import RECORD

from tokenq.report.offline import origin


def test_all_that_a_record_says():
    assert origin(RECORD) == [
        ("command", "tokenq score --policy 'runs/a policy' --data pairs.jsonl"),
        ("policy", "runs/a policy/policy"),
        ("reference", "google/gemma-3-270m"),
        ("data", "hh_harmless.jsonl, hh_helpful.jsonl"),
        ("date", "2026-11-28 12:34"),
        ("tokenq", "0.1.0"),
    ]


def test_beta_is_that_of_the_record_else_of_the_configuration():
    """And a field that counts prompts is no file of them; what a run was trained on stands in its identity."""
    config = {"beta": 0.25, "prompts": 32, "run": "runs/first"}
    said = dict(origin({"config": config, "data": {"sources": ["a.jsonl"]}}))
    assert said == {"run": "runs/first", "data": "a.jsonl", "β": "0.25"}
    assert dict(origin({"config": config, "beta": 0.1}))["β"] == "0.1"
    both = dict(origin({"config": config, "beta": 0.1, "image_beta": 0.02}))
    assert (both["β"], both["β of steps"]) == ("0.1", "0.02")
    assert origin({}) == []
