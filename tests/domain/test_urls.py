"""Addresses: everything that can be named can be written down, and no password comes out again."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from dataguardian.domain.errors import UsageError
from dataguardian.domain.urls import Url, absolute_path, parse_url

NAMES = st.binary(max_size=30).filter(lambda raw: b"\x00" not in raw).map(os.fsdecode)
HOSTS = st.one_of(
    st.none(),
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
    st.ip_addresses().map(str),
    st.sampled_from(["bücher.example", "fe80::1%eth0", "fe80::1%Zone/1", "/run/PostgreSQL", "a,b,c", "under_score"]),
)
URLS = st.builds(
    Url,
    scheme=st.sampled_from(["file", "postgresql", "s3+http"]),
    username=st.none() | NAMES,
    host=HOSTS,
    port=st.none() | st.integers(0, 65535),
    path=st.just("") | NAMES.map(lambda name: "/" + name),
    query=st.dictionaries(st.sampled_from(["a", "sslmode", "max_size_gb", "ü & =", "+"]), NAMES, max_size=3),
)


@given(URLS)
@example(Url("file", path="/100%/#1/a?b@c:d+e\ud83d".replace("\ud83d", "\udcff")))
def test_an_address_is_read_back_as_it_was_written(url: Url) -> None:
    """Whatever bytes a name holds, its printed address is ASCII and leads back to the same name."""
    text = str(url)
    assert text.isascii()
    assert parse_url(text) == url


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@example("postgresql://[")
@example("a://[::1%]")
@example("a://@:0")
@example("a://h:99999")
@example("a://h:٣")
@example("a://\u2100@h")
def test_any_text_is_an_address_or_wrong_usage(text: str) -> None:
    """No input makes the parser fail in another way."""
    for candidate in (text, f"postgresql://{text}"):
        with suppress(UsageError):
            str(parse_url(candidate))


@given(st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
@example("p@ss:w#rd%/?[]")
@example("12/34")
@example("1?2")
@example("℀ⅷ")
def test_no_part_of_a_password_is_ever_shown(secret: str) -> None:
    """A password that was not percent-encoded either arrives whole or is refused, and is repeated nowhere."""
    marked = f"S3CRET{secret}S3CRET"
    for authority in (f"user:{marked}@host", f":{marked}@host:5432", f"user:1{marked}@[::1]", f"user:{secret}S3CRET@h"):
        try:
            url = parse_url(f"postgresql://{authority}/db")
        except UsageError as error:
            shown = "".join(traceback.format_exception(error)) + str(error.as_json()) + repr(error.__context__)
        else:
            shown = f"{url} {url!r}"
            assert url.path == "/db"
        assert "S3CRET" not in shown


@given(NAMES)
def test_a_percent_encoded_password_arrives_byte_for_byte(password: str) -> None:
    """Percent-encoding carries any password, also one that is not UTF-8."""
    encoded = "".join(f"%{byte:02X}" for byte in os.fsencode(password))
    url = parse_url(f"postgresql://user:{encoded.replace('%00', '')}@host/db")
    assert url.password == SecretStr(password)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("FILE:///Abs/Dir", Url("file", path="/Abs/Dir")),
        ("file:////abs", Url("file", path="//abs")),
        ("file:///a#b", Url("file", path="/a#b")),
        ("file:///100%", Url("file", path="/100%")),
        ("file:///home/me@work", Url("file", path="/home/me@work")),
        ("a://Host.Example:0/x", Url("a", host="host.example", port=0, path="/x")),
        ("a://h:", Url("a", host="h")),
        ("a://[::1]:5432", Url("a", host="::1", port=5432)),
        ("a://[FE80::1%25Eth0]/", Url("a", host="fe80::1%Eth0", path="/")),
        ("a://[FE80::1%Eth0]/", Url("a", host="fe80::1%Eth0", path="/")),
        ("a://%2FRun%2Fpg/db", Url("a", host="/Run/pg", path="/db")),
        ("a://u:p@ss:w#rd@h/db", Url("a", username="u", password=SecretStr("p@ss:w#rd"), host="h", path="/db")),
        ("a://u@x@h", Url("a", username="u@x", host="h")),
        ("a://u:@h", Url("a", username="u", password=SecretStr(""), host="h")),
        ("a://h/?x=a+b%2Bc&y&z==", Url("a", host="h", path="/", query={"x": "a+b+c", "y": "", "z": "="})),
        ("a://h?x=1", Url("a", host="h", query={"x": "1"})),
    ],
)
def test_odd_addresses_mean_what_they_say(text: str, url: Url) -> None:
    """`#`, `@`, `%`, `+`, IPv6 with a zone and socket folders keep the meaning that people give them."""
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "/abs/dir", "file:/abs", "://h", "1a://h", "a://h:x", "a://h:65536", "a://h:1:2", "a://::1/db"),
        *("a://[::1", "a://[::g]/", "a://::1]/", "a://h]", "a:///x%00y", "a:///x\ny", "a:///x\x7f", "a://\ud800"),
        *("a://u:12/34@h/db", "a://u:1?2@h/db", "a://u:a@1/b@h/db", "a://h?x=1&x=2"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Malformed hosts and ports, control characters, options given twice and cut passwords are wrong usage."""
    with pytest.raises(UsageError):
        parse_url(text)


def test_secret_options_are_not_shown() -> None:
    """A password given as an option, as libpq allows, stays out of everything printable as well."""
    url = parse_url("postgresql://u@h/db?sslmode=require&password=hunter2&sslpassword=hunter3")
    assert str(url) == "postgresql://u@h/db?sslmode=require"
    assert "hunter" not in repr(url)


@pytest.mark.parametrize("text", ["file:///a/b", "file://localhost/a/b", "file://LOCALHOST/a/b"])
def test_a_local_path_is_taken_from_an_address(text: str) -> None:
    """`localhost` is the one host that a local address may name."""
    assert absolute_path(parse_url(text)) == "/a/b"


@pytest.mark.parametrize("text", ["file://a/b", "file://", "file://localhost", "file://u@/a", "file://localhost:1/a"])
def test_a_local_path_needs_no_host_and_no_user(text: str) -> None:
    """`file://dir/x` with two slashes is a usual slip, and the answer shows the right form."""
    with pytest.raises(UsageError) as caught:
        absolute_path(parse_url(text))
    assert caught.value.hint == "write file:///absolute/path"


def test_a_changed_path_keeps_the_rest() -> None:
    """A backup's address is its storage's with another path."""
    assert str(parse_url("a://u@h:1/x?k=v").with_path("/x/y z")) == "a://u@h:1/x/y%20z?k=v"


def test_a_list_of_hosts_with_ports_is_one_host() -> None:
    """Replica sets are addressed by several members, and the address that is shown reads back."""
    url = parse_url("mongodb://me:se,cret:1@one:27017,two:27018,three/db?replicaSet=rs0")

    assert (url.host, url.port, url.path) == ("one:27017,two:27018,three", None, "/db")
    assert "secret" not in str(url)
    assert parse_url(str(url)).host == url.host


def test_a_password_with_a_slash_does_not_pass_for_a_list_of_hosts() -> None:
    """What follows a '/' in a password would be taken for a path, and be printed."""
    with pytest.raises(UsageError) as failure:
        parse_url("mongodb://user:12,se/cret@host")

    assert "cret" not in str(failure.value)


def test_a_tunnels_address_may_stand_in_a_query() -> None:
    """`ssh_tunnel` is an address itself, so its '@' does not make the rest look like a torn password."""
    url = parse_url("postgresql://u:p@h:1/db?ssh_tunnel=ssh://me@gate:22&ssl_mode=require")

    assert url.query == {"ssh_tunnel": "ssh://me@gate:22", "ssl_mode": "require"}
    with pytest.raises(UsageError):
        parse_url("postgresql://u:p?ss@h:1/db?ssh_tunnel=ssh://me@gate:22")
