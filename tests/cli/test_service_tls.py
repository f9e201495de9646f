"""The service over TLS, and listening on more than this machine: who is trusted, and what is warned of."""

from __future__ import annotations

from pathlib import Path

from tests.certificates import Authority
from tests.cli.service import Service


def test_commands_on_this_machine_know_the_services_own_certificate(own_service: Service, tmp_path: Path) -> None:
    """It is called after a name, not after the loopback address; where DATAGUARDIAN_TLS_CERT is set that is enough."""
    authority = Authority(tmp_path)
    pair = authority.issue("backup.example.org", "backup.example.org")
    own_service.env |= {"DATAGUARDIAN_TLS_CERT": str(pair.certificate), "DATAGUARDIAN_TLS_KEY": str(pair.key)}
    own_service.scheme = "https"
    assert own_service.start()["url"] == own_service.url
    assert own_service.ok("status")["session"]["role"] == "admin"
    del own_service.env["DATAGUARDIAN_TLS_CERT"], own_service.env["DATAGUARDIAN_TLS_KEY"]
    told = own_service.refused(5, "status")
    assert "is not trusted" in told
    assert "SSL_CERT_FILE" in told
    assert "is not trusted" in own_service.refused(5, "status", env={"SSL_CERT_FILE": str(authority.file)})
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").issue("backup.example.org", "backup.example.org")
    wrong = {"DATAGUARDIAN_TLS_CERT": str(other.certificate), "DATAGUARDIAN_TLS_KEY": str(other.key)}
    assert "is not trusted" in own_service.refused(5, "status", env=wrong)


def test_an_authority_of_ones_own(own_service: Service, tmp_path: Path) -> None:
    """With SSL_CERT_FILE the name in the address is checked against the certificate, as with any web server."""
    authority = Authority(tmp_path)
    pair = authority.issue("localhost", "localhost")
    settings = {"DATAGUARDIAN_TLS_CERT": str(pair.certificate), "DATAGUARDIAN_TLS_KEY": str(pair.key)}
    own_service.env |= settings
    own_service.start()
    for name in settings:
        del own_service.env[name]
    trusting = {"SSL_CERT_FILE": str(authority.file)}
    assert own_service.ok("status", "--url", f"https://localhost:{own_service.port}", env=trusting)
    told = own_service.refused(5, "status", "--url", f"https://127.0.0.1:{own_service.port}", env=trusting)
    assert "is not trusted" in told


def test_listening_on_the_network_is_possible_and_warned_of(own_service: Service) -> None:
    """Without TLS the log says what that means; commands find the service, and strangers' names are not answered."""
    assert own_service.start("--host", "0.0.0.0")["url"] == own_service.url
    assert "listening on the network without TLS" in own_service.log
    own_service.ok("job", "list")
    other = own_service.run("job", "list", env={"DATAGUARDIAN_HOST": "0.0.0.0", "DATAGUARDIAN_URL": ""})
    assert other.code == 5  # the default port, on which nothing answers
    assert "127.0.0.1:8484" in other.err


def test_a_certificate_that_cannot_be_served(own_service: Service, tmp_path: Path) -> None:
    """It is told before anything starts, also by commands that are to trust it."""
    for text in ("", "no certificate\n", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"):
        file = tmp_path / "cert.pem"
        file.write_text(text)
        env = {"DATAGUARDIAN_TLS_CERT": str(file), "DATAGUARDIAN_TLS_KEY": str(file)}
        assert "cannot be used" in own_service.refused(2, "up", env=env)
        url = f"https://127.0.0.1:{own_service.port}"
        assert "DATAGUARDIAN_TLS_CERT" in own_service.refused(2, "status", "--url", url, env=env)
    assert "go together" in own_service.refused(2, "up", env={"DATAGUARDIAN_TLS_CERT": str(tmp_path)})
    assert not own_service.home.exists()
