"""Names and pages that a server answers to."""

import pytest

from tokenq.errors import UserError
from tokenq.server.guards.hosts import host_of, is_loopback, names_of

NAMES = names_of("127.0.0.1", ["Tokenq.Example.org"], ["https://pages.example.org"])


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1:8000",
        "localhost",
        "LOCALHOST:8000",
        "app.localhost:1",
        "[::1]:8000",
        "[::1]",
        "tokenq.example.org",
        "tokenq.example.org.:8000",
        "192.168.1.7:8000",
    ],
)
def test_known_names(header):
    assert NAMES.knows(header)


@pytest.mark.parametrize(
    "header",
    [
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8000",
        "",
        ":8000",
        "localhost:port",
        "localhost/evil",
        "evil@localhost",
        "localhost evil",
        "localhost:0",
        "[::1",
        "1.1.1.1.nip.io",
        "xlocalhost",
        "localhost#",
        "localhost?",
        "localhost\\",
        "tokenq.example.org.evil",
        "ｌocalhost",
        "localhost:99999",
    ],
)
def test_others_are_strangers(header):
    assert not NAMES.knows(header)


@pytest.mark.parametrize(
    ("origin", "admitted"),
    [
        ("http://localhost:8000", True),
        ("https://localhost:8000", True),
        ("https://pages.example.org", True),
        ("http://localhost:3000", False),
        ("https://pages.example.org.evil", False),
        ("null", False),
        ("", False),
        ("http://evil.example", False),
    ],
)
def test_pages(origin, admitted):
    assert NAMES.admits(origin, "localhost:8000", "http") is admitted


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_loopback(host, local):
    assert is_loopback(host) is local


@pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "a b", "*", "a/b", ""])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(UserError, match="--allow-host"):
        names_of("127.0.0.1", [name], [])


@pytest.mark.parametrize(
    "origin", ["*", "pages.example.org", "https://pages.example.org/", "ftp://a", "null", "https://"]
)
def test_an_origin_that_is_none_is_refused(origin):
    with pytest.raises(UserError, match="--allow-origin"):
        names_of("127.0.0.1", [], [origin])


def test_the_name_of_a_header():
    assert host_of("EXAMPLE.org.:80") == "example.org"
    assert host_of("[2001:DB8::1]:80") == "2001:db8::1"
