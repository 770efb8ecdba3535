"""Secrets are found by their form, wherever they stand; honest paths and names stay."""

import pytest

from tokenq.redaction import redact

HF = "hf_" + "Ab1" * 10
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (HF, "[secret]"),
        (f"--token={HF}", "--token=[secret]"),
        (f"x-{HF}/y", "x-[secret]/y"),
        ("https://me:pass@host.org/x", "https://[secret]@host.org/x"),
        ("https://me:p@ss@host.org/x", "https://[secret]@host.org/x"),
        ("https://me:p/a@s/s@host.org:8080/x", "https://[secret]@host.org:8080/x"),
        ("postgres://me:12345@host/db", "postgres://[secret]@host/db"),
        (f"https://{HF}@host.org/x", "https://[secret]@host.org/x"),
        ("https://host.org/v1?api_key=abc123&n=2", "https://host.org/v1?api_key=[secret]&n=2"),
        ("https://host.org/f?n=2&X-Amz-Signature=0a1b#top", "https://host.org/f?n=2&X-Amz-Signature=[secret]#top"),
        ("https://host.org/f?token=a;password=b", "https://host.org/f?token=[secret]"),
        ("https://host.org/f?access_token=a&sig=b", "https://host.org/f?access_token=[secret]&sig=[secret]"),
        ("sk-" + "a" * 20, "[secret]"),
        ("sk-proj-abcDEF123456_-x", "[secret]"),
        ("sk-ant-api03-abcDEF123456", "[secret]"),
        ("sk_live_abcdef123456", "[secret]"),
        ("AIza" + "Sy0_-" * 7, "[secret]"),
        ("gsk_" + "aB3" * 10, "[secret]"),
        ("ghp_" + "aB3" * 12, "[secret]"),
        ("github_pat_" + "11AB_cd" * 5, "[secret]"),
        ("glpat-" + "aB3-" * 5, "[secret]"),
        ("xoxb-123456789-abcdef", "[secret]"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        (JWT, "[secret]"),
        (f"Authorization: Bearer {JWT}", "Authorization: Bearer [secret]"),
        ("Bearer abcdefgh12345", "Bearer [secret]"),
        (f"a {HF}, and ghp_{'a1' * 18}.", "a [secret], and [secret]."),
    ],
)
def test_secrets_are_blanked_and_what_stands_around_them_stays(text, safe):
    assert redact(text) == safe
    assert redact({"a": [text, 3], "b": None}) == {"a": [safe, 3], "b": None}


@pytest.mark.parametrize(
    "text",
    [
        "org/hf_model",
        "models/hf_checkpoints-of-my-large-run",
        "task-oriented-dialogue",
        "runs/sk-learn-pipelines-for-texts",
        "disk-0123456789abcdef0123",
        "https://host.org/user@x",
        "http://localhost:8000/v1/user@x",
        "http://[::1]:8000/v1",
        "https://host.org/f?page=2&author=key",
        "hf://datasets/me/pairs@main/train.jsonl",
        "git@host.org:me/x.git",
        "data.jsonl@0.5",
        "eyJ.jsonl",
        "a key=value pair, token=word",
        "bearer of news",
    ],
)
def test_honest_paths_and_names_stay(text):
    assert redact(text) == text


def test_a_secret_of_the_environment_is_blanked_where_it_stands_as_a_word(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    for text, safe in (
        ("0123456789abcdef", "[secret]"),
        ("--key=0123456789abcdef", "--key=[secret]"),
        ("the key is 0123456789abcdef.", "the key is [secret]."),
    ):
        assert redact(text) == safe


@pytest.mark.parametrize(
    "path",
    [
        "/home/postgres/m",
        "postgres/m",
        "m/postgres",
        "m-postgres.jsonl",
        "postgres.jsonl",
        "~/postgres",
        "postgres://host/db",
    ],
)
def test_a_password_that_is_also_a_name_blanks_no_path(monkeypatch, path):
    monkeypatch.setenv("DB_PASSWORD", "postgres")
    assert redact(path) == path


def test_a_value_that_is_a_path_is_no_secret(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    monkeypatch.setenv("SSH_KEY", str(tmp_path / "key"))
    monkeypatch.setenv("MODEL_KEY", "my-model")
    assert redact([str(tmp_path / "key"), "my-model"]) == [str(tmp_path / "key"), "my-model"]
