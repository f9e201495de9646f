"""The gate on a network: names, proxies, other sites, TLS, metrics, and what smuggles headers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dataguardian.api.app import create_app
from dataguardian.bootstrap.service import check_tls, is_loopback, warn_of_open_doors
from dataguardian.domain.errors import UsageError
from dataguardian.service.services import assemble
from dataguardian.settings import Settings
from tests.api.access_stage import bearer, client, token, user
from tests.api.stage import Desk, is_error, play

PROXY, OTHER_PROXY, CLIENT = "10.0.0.1", "10.0.0.2", "203.0.113.9"


def set_up(desk: Desk, **fields: Any) -> Desk:
    """The same desk with other settings."""
    context = replace(desk.services.context, settings=replace(desk.services.context.settings, **fields))
    services = assemble(context)
    return replace(desk, services=services, app=create_app(services))


async def _seen_from(desk: Desk, peer: str, headers: Any) -> str:
    """Signs in, and returns the address that the service believes that came from."""
    async with client(desk, peer) as http:
        body = {"name": "anna", "password": "correct horse battery"}
        assert (await http.post("/api/session", json=body, headers=headers)).status_code == 201
    people = await desk.services.users.page(1, 1)
    return (await desk.services.sessions.of_user(people.data[0].id))[0].address


def test_a_proxy_is_believed_only_when_it_is_trusted(tmp_path: Path) -> None:
    """The rightmost hop that is none of ours is the client: what stands left of it anybody may have written."""

    async def story(desk: Desk) -> None:
        await user(desk)
        behind = set_up(desk, trusted_proxies=(ip_network("10.0.0.0/24"),))
        stories: list[tuple[Desk, str, Any, str]] = [
            (desk, PROXY, {"X-Forwarded-For": CLIENT}, PROXY),
            (behind, CLIENT, {"X-Forwarded-For": "127.0.0.1"}, CLIENT),
            (behind, PROXY, {"X-Forwarded-For": CLIENT}, CLIENT),
            (behind, PROXY, {"X-Forwarded-For": f"127.0.0.1, {CLIENT}, {OTHER_PROXY}"}, CLIENT),
            (behind, PROXY, [("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-For", CLIENT)], CLIENT),
            (behind, PROXY, {"X-Forwarded-For": f"{CLIENT}:4711"}, CLIENT),
            (behind, PROXY, {"X-Forwarded-For": "[2001:db8::7]:4711"}, "2001:db8::7"),
            (behind, PROXY, {"X-Forwarded-For": f"{CLIENT}, nonsense"}, PROXY),
            (behind, PROXY, {"X-Forwarded-For": ""}, PROXY),
            (behind, f"::ffff:{PROXY}", {"X-Forwarded-For": CLIENT}, CLIENT),
        ]
        for there, peer, headers, address in stories:
            desk.here.clock.advance(minutes=20)
            assert await _seen_from(there, peer, headers) == address, headers

    play(tmp_path, story)


def test_tls_at_a_trusted_proxy_is_tls(tmp_path: Path) -> None:
    """Cookies become Secure and browsers are told to stay with TLS; nobody else can say so."""

    async def story(desk: Desk) -> None:
        await user(desk)
        behind = set_up(desk, trusted_proxies=(ip_network("10.0.0.0/24"),))
        body = {"name": "anna", "password": "correct horse battery"}
        for peer, is_tls in ((PROXY, True), (CLIENT, False)):
            async with client(behind, peer) as http:
                headers = {"X-Forwarded-Proto": "https", "Origin": f"http{'s' * is_tls}://localhost:8484"}
                answer = await http.post("/api/session", json=body, headers=headers)
                assert answer.status_code == 201
                assert answer.headers["set-cookie"].startswith("__Host-dataguardian=") is is_tls
                assert ("strict-transport-security" in answer.headers) is is_tls

    play(tmp_path, story)


def test_only_names_that_are_ours_are_answered(tmp_path: Path) -> None:
    """A page that rebinds its name to our address still sends its name; the bare address it cannot send."""

    async def story(desk: Desk) -> None:
        named = set_up(desk, allowed_hosts=frozenset({"backup.example.org"}), host="192.0.2.5")
        everywhere = set_up(desk, host="0.0.0.0")
        for there, base_url, host, is_ours in (
            (named, "http://192.0.2.5:8484", "backup.example.org", True),
            (named, "http://192.0.2.5:8484", "BACKUP.example.org:443", True),
            (named, "http://192.0.2.5:8484", "192.0.2.5:8484", True),
            (named, "http://192.0.2.5:8484", "evil.backup.example.org", False),
            (named, "http://192.0.2.5:8484", "backup.example.org.evil.example", False),
            (everywhere, "http://192.0.2.6:8484", "192.0.2.6", True),
            (everywhere, "http://[2001:db8::6]:8484", "[2001:db8:0::6]:8484", True),
            (everywhere, "http://192.0.2.6:8484", "192.0.2.7", False),
            (everywhere, "http://evil.example", "evil.example", False),
            (everywhere, "http://192.0.2.6:8484", "0.0.0.0", False),
        ):
            async with client(there, base_url=base_url) as http:
                answer = await http.get("/health", headers={"Host": host})
                assert answer.status_code == (200 if is_ours else 403), (base_url, host)
        async with client(desk) as http:
            is_error(await http.get("/health", headers=[("Host", "localhost"), ("Host", "localhost")]), 403)
            origins = [("Origin", "http://localhost:8484"), ("Origin", "https://evil.example")]
            is_error(await http.post("/api/session", json={}, headers=origins), 403)

    play(tmp_path, story)


def test_other_sites_are_closed_out_unless_they_are_named(tmp_path: Path) -> None:
    """A named site's page may call with a token and read the answer; never with the session of who looks at it."""

    async def story(desk: Desk) -> None:
        await user(desk)
        friend, asks = "https://status.example.org", {"Access-Control-Request-Method": "GET"}
        shared = set_up(desk, cors_origins=frozenset({friend}))
        open_to_all = set_up(desk, cors_origins=frozenset({"*"}))
        secret = await token(desk)
        async with client(desk) as http:
            is_error(await http.options("/api/datasources", headers={"Origin": friend} | asks), 403, "foreign_site")
        for there, origin, allowed in ((shared, friend, friend), (open_to_all, "https://any.example", "*")):
            async with client(there) as http:
                asked = await http.options("/api/datasources", headers={"Origin": origin} | asks)
                assert asked.status_code == 204
                assert "authorization" in asked.headers["access-control-allow-headers"].lower()
                read = await http.get("/api/datasources", headers={"Origin": origin} | bearer(secret))
                assert read.status_code == 200
                body = {"name": "anna", "password": "correct horse battery"}
                signed_in = await http.post("/api/session", json=body)
                csrf = {"Origin": origin, "X-CSRF-Token": signed_in.json()["csrf_token"]}
                ridden = [
                    await http.get("/api/datasources", headers=csrf),
                    await http.post("/api/tokens", json={"name": "x", "role": "viewer"}, headers=csrf),
                ]
                for answer in (asked, read, *ridden):
                    assert answer.headers["access-control-allow-origin"] == allowed
                    assert "access-control-allow-credentials" not in answer.headers
                for answer in ridden:
                    is_error(answer, 403, "forbidden")
        async with client(shared) as http:
            for origin in ("https://evil.example", "http://status.example.org", f"{friend}.evil.example", "null"):
                answer = await http.get("/api/datasources", headers={"Origin": origin} | bearer(secret))
                is_error(answer, 403, "foreign_site")
                assert "access-control-allow-origin" not in answer.headers

    play(tmp_path, story)


def test_metrics_are_for_those_who_may_view_and_for_named_networks(tmp_path: Path) -> None:
    """A scraper that is named needs no token; a token that is not valid does not become one by its address."""

    async def story(desk: Desk) -> None:
        scraped = set_up(desk, metrics_networks=(ip_network("192.0.2.0/28"),))
        for there, address, headers, status in (
            (desk, "192.0.2.1", {}, 401),
            (scraped, "192.0.2.1", {}, 200),
            (scraped, "192.0.2.99", {}, 401),
            (scraped, "192.0.2.99", {"X-Forwarded-For": "192.0.2.1"}, 401),
            (scraped, "192.0.2.1", bearer("dgt_" + "A" * 43), 401),
            (desk, "192.0.2.1", bearer(await token(desk)), 200),
        ):
            async with client(there, address) as http:
                assert (await http.get("/metrics", headers=headers)).status_code == status
                assert (await http.get("/api/datasources")).status_code == 401

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATAGUARDIAN_ALLOWED_HOSTS", "https://backup.example.org"),
        ("DATAGUARDIAN_ALLOWED_HOSTS", "*"),
        ("DATAGUARDIAN_CORS_ORIGINS", "status.example.org"),
        ("DATAGUARDIAN_CORS_ORIGINS", "https://status.example.org/"),
        ("DATAGUARDIAN_TRUSTED_PROXIES", "proxy"),
        ("DATAGUARDIAN_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("DATAGUARDIAN_METRICS_NETWORKS", "all"),
        ("DATAGUARDIAN_TLS_CERT", "/cert.pem"),
        ("DATAGUARDIAN_TLS_KEY", "/key.pem"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_by_name(name: str, value: str) -> None:
    """Rather at the start than as a door that is open, or shut, by mistake."""
    with pytest.raises(UsageError, match=name):
        Settings.from_environment({name: value})


def test_settings_of_the_network_are_read(tmp_path: Path) -> None:
    """Commas and spaces part names; hosts and origins do not mind their case."""
    read = Settings.from_environment(
        {
            "DATAGUARDIAN_ALLOWED_HOSTS": "Backup.example.org, [2001:db8::1]",
            "DATAGUARDIAN_CORS_ORIGINS": "https://A.example https://b.example:8443",
            "DATAGUARDIAN_TRUSTED_PROXIES": "10.0.0.0/8,::1",
            "DATAGUARDIAN_TLS_CERT": str(tmp_path / "cert.pem"),
            "DATAGUARDIAN_TLS_KEY": str(tmp_path / "key.pem"),
        }
    )
    assert read.allowed_hosts == {"backup.example.org", "2001:db8::1"}
    assert read.cors_origins == {"https://a.example", "https://b.example:8443"}
    assert read.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert (read.tls_cert, read.tls_key) == (tmp_path / "cert.pem", tmp_path / "key.pem")


def test_listening_on_the_network_in_clear_is_said_aloud() -> None:
    """Once, in the log; TLS, or a proxy that has it, or a loopback address is silence."""
    here = Settings(staging_dir=Path("/tmp"))
    for settings, is_open in (
        (here, False),
        (replace(here, host="::1"), False),
        (replace(here, host="0.0.0.0"), True),
        (replace(here, host="192.0.2.1"), True),
        (replace(here, host="0.0.0.0", tls_cert=Path("cert"), tls_key=Path("key")), False),
        (replace(here, host="0.0.0.0", trusted_proxies=(ip_network("10.0.0.1"),)), False),
    ):
        with structlog.testing.capture_logs() as lines:
            warn_of_open_doors(settings)
        assert [line["log_level"] for line in lines] == ["warning"] * is_open
    assert not is_loopback("example.org")


def test_a_certificate_that_cannot_be_served_stops_the_start(tmp_path: Path) -> None:
    """Missing, no certificate, or another one's key: each says so, and asks nobody for a passphrase."""
    cert, key = certificate(tmp_path)
    base = Settings(staging_dir=tmp_path)
    check_tls(base)
    check_tls(replace(base, tls_cert=cert, tls_key=key))
    nonsense, (_, stranger), locked = tmp_path / "nonsense.pem", certificate(tmp_path, "other"), tmp_path / "locked.pem"
    nonsense.write_text("nonsense")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"passphrase")
    pem = serialization.Encoding.PEM
    locked.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, secret))
    for one, other in ((tmp_path / "absent", key), (nonsense, key), (cert, stranger), (cert, locked), (cert, tmp_path)):
        with pytest.raises(UsageError, match="certificate"):
            check_tls(replace(base, tls_cert=one, tls_key=other))


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate of this machine, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / f"{name}.pem", folder / f"{name}-key.pem"
    cert_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return cert_path, key_path


def test_strangers_are_refused_before_their_body_is_parsed(tmp_path: Path) -> None:
    """A body that takes long to look through costs a stranger's sender more than us."""

    async def story(desk: Desk) -> None:
        async with client(desk) as http:
            sent = {"content": b"[" * 20_000, "headers": {"Content-Type": "application/json"}}
            answers = await asyncio.gather(*(http.post("/api/backup-jobs", **sent) for _ in range(5)))
            assert {answer.status_code for answer in answers} == {401}
            is_error(await http.post("/api/backup-jobs", **sent, auth=httpx.BasicAuth("admin", "admin")), 401)
            body = {"name": "anna", "password": "x" * 10_000}
            assert "10 kB" in is_error(await http.post("/api/session", json=body), 413, "body_too_large")["message"]

    play(tmp_path, story)
