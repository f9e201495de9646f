"""Whom the command line takes for the service when it talks TLS to it."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from dataguardian.cli.credentials import is_loopback
from dataguardian.domain.errors import UsageError

_END = "-----END CERTIFICATE-----\n"
HINT = (
    "name the authority's file with SSL_CERT_FILE; on the service's machine set DATAGUARDIAN_TLS_CERT for commands, too"
)


def context_for(url: str) -> ssl.SSLContext:
    """Returns what a certificate is checked by: usual authorities and `SSL_CERT_FILE`.

    On the service's own machine it is the very certificate that DATAGUARDIAN_TLS_CERT names, whatever it is called:
    that address is no name that an authority vouches for.
    """
    from dataguardian.settings import Settings

    own = Settings.from_environment().tls_cert
    if own is None or not is_loopback(urlsplit(url).hostname or ""):
        return _usual()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=_first_of(own.read_text(encoding="ascii")))
    except (OSError, ValueError) as error:
        unread = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
        reason = "cannot be read" if unread else "holds no certificate"
        raise UsageError(f"DATAGUARDIAN_TLS_CERT names {own}, which {reason}", hint="a PEM file") from error
    return context


def reason_of(error: BaseException | None) -> str | None:
    """Returns why a certificate was not taken, when that is what an error is about."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def _usual() -> ssl.SSLContext:
    import httpx

    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


def _first_of(text: str) -> str:
    """Returns the certificate itself, without the authorities that follow it: those sign others' as well."""
    first, end, _ = text.replace("\r\n", "\n").partition(_END)
    return first[first.index("-----BEGIN") :] + end
