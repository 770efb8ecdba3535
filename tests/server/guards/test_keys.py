"""API keys: where they come from, who is let in, and that they are shown nowhere."""

import hmac

import pytest

import tokenq.server.guards.keys as module
from tokenq.errors import UserError
from tokenq.server.guards.keys import ADMIN_VARIABLE, API_VARIABLE, bearer, read_keys

KEY, OTHER, ADMIN = "a-key-of-twenty-signs", "another-key-of-many-signs", "the-admin-key-of-the-house"


def test_without_any_key_everybody_may_ask_and_nobody_load():
    keys = read_keys(None, None, {})
    assert not keys.needed
    assert keys.asks("")
    assert keys.asks("whatever")
    assert not keys.administers("")
    assert not keys.administers("whatever")


def test_keys_of_the_environment():
    keys = read_keys(None, None, {API_VARIABLE: f" {KEY}\n", ADMIN_VARIABLE: ADMIN})
    assert [keys.asks(one) for one in (KEY, ADMIN, "", KEY[:-1], KEY.upper())] == [True, True, False, False, False]
    assert [keys.administers(one) for one in (KEY, ADMIN, "")] == [False, True, False]
    assert keys.warnings == ()


def test_keys_of_a_file_go_before_the_environment_and_may_be_several(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# of this week\n{KEY}\n\n  {OTHER}  \n")
    file.chmod(0o600)
    keys = read_keys(str(file), None, {API_VARIABLE: "the-key-of-the-environment"})
    assert keys.asks(KEY)
    assert keys.asks(OTHER)
    assert not keys.asks("the-key-of-the-environment")
    assert not keys.asks("# of this week")
    assert keys.warnings == ()


def test_what_is_doubtful_is_said_without_the_key(tmp_path):
    file = tmp_path / "keys"
    file.write_text("short\n")
    file.chmod(0o644)
    said = " ".join(read_keys(str(file), None, {}).warnings)
    assert "chmod 600" in said
    assert "can be guessed" in said
    assert "short" not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no key in it"), ("# nothing\n", "no key in it"), ("two words", "spaces"), ("schlüssel-von-hier", "ASCII")],
)
def test_a_file_that_holds_no_keys_is_refused(tmp_path, text, says):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as refused:
        read_keys(str(file), None, {})
    assert "two words" not in str(refused.value)
    assert "schlüssel" not in str(refused.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"--admin-key-file .*none cannot be read: No such file"):
        read_keys(None, str(tmp_path / "none"), {})
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no text"):
        read_keys(str(tmp_path / "bytes"), None, {})


def test_an_empty_variable_is_a_mistake_and_no_open_door():
    with pytest.raises(UserError, match="TOKENQ_API_KEY is empty"):
        read_keys(None, None, {API_VARIABLE: " "})


def test_one_key_for_both_is_refused():
    with pytest.raises(UserError, match="also the admin key"):
        read_keys(None, None, {API_VARIABLE: KEY, ADMIN_VARIABLE: KEY})


def test_keys_are_in_no_repr():
    keys = read_keys(None, None, {API_VARIABLE: KEY, ADMIN_VARIABLE: ADMIN})
    assert repr(keys) == "Keys(warnings=())"
    assert KEY not in str(vars(keys))
    assert ADMIN not in str(vars(keys))


def test_every_key_is_compared_whole(monkeypatch):
    """All comparisons are made, in constant time, whichever key it is: no time tells which one fits, or how far."""
    compared = []
    monkeypatch.setattr(
        module.hmac,
        "compare_digest",
        lambda a, b, real=hmac.compare_digest: compared.append((len(a), len(b))) or real(a, b),
    )
    keys = read_keys(None, None, {API_VARIABLE: KEY, ADMIN_VARIABLE: ADMIN})
    for given in (KEY, ADMIN, "", "x" * 10_000):
        compared.clear()
        keys.asks(given)
        assert compared == [(32, 32), (32, 32)]


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (f"Bearer {KEY}", KEY),
        (f"bearer  {KEY} ", KEY),
        (KEY, ""),
        (f"Basic {KEY}", ""),
        ("", ""),
        ("Bearer", ""),
    ],
)
def test_the_key_of_a_header(header, key):
    assert bearer(header) == key
