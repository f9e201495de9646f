"""Is anybody there, with TLS as it is asked for? The driver would go on trying for its whole limit, and say less."""

from __future__ import annotations

import socket
import ssl

from dataguardian.domain.errors import AuthenticationError, DataGuardianError, UnreachableError
from dataguardian.engines.mongodb.config import MongoConfig, place_of
from dataguardian.engines.network import Endpoint, ssl_context

_PREFER_SECONDS = 2.0
"""For the handshake that may come to nothing."""
_NOBODY = "check host and port, that the server runs, and whether it wants TLS (ssl_mode=verify-full)"
_CERTIFICATE = "check ssl_ca and the host that the server's certificate names, or what it asks of ssl_cert"


def knock(config: MongoConfig, endpoint: Endpoint, seconds: float) -> bool:
    """Returns whether to speak TLS; raises UnreachableError or AuthenticationError within `seconds`.

    Of several servers, and behind a socket, it goes by the configuration alone.
    """
    wants_tls = config.srv if config.ssl_mode is None else config.ssl_mode != "disable"
    if endpoint.socket or config.srv or "," in endpoint.host:
        return wants_tls and (config.srv or config.ssl_mode != "prefer")
    try:
        with socket.create_connection((endpoint.host, endpoint.port), seconds) as plain:
            plain.settimeout(min(seconds, _PREFER_SECONDS) if config.ssl_mode == "prefer" else seconds)
            return wants_tls and _shakes_hands(config, endpoint, plain)
    except OSError as error:
        raise UnreachableError(f"{place_of(config)}: {error.strerror or error}", hint=_NOBODY) from error


def _shakes_hands(config: MongoConfig, endpoint: Endpoint, plain: socket.socket) -> bool:
    context = ssl_context(config)
    if context is None:
        return False
    try:
        context.wrap_socket(plain, server_hostname=endpoint.tls_name).close()
    except ssl.SSLCertVerificationError as error:
        raise _refused(config, error.verify_message) from error
    except OSError as error:
        reason = str(getattr(error, "reason", None) or error.strerror or error)
        if "ALERT" in reason and config.ssl_mode != "prefer":
            raise _refused(config, reason.lower().replace("_", " ")) from error
        if config.ssl_mode != "prefer" and isinstance(error, (ssl.SSLError, ConnectionError)):
            raise UnreachableError(f"{place_of(config)}: no TLS is spoken there ({reason})", hint=_NOBODY) from error
        if config.ssl_mode != "prefer":
            raise
        return "ALERT" in reason  # it wants more of us, in TLS
    return True


def _refused(config: MongoConfig, said: str) -> DataGuardianError:
    return AuthenticationError(f"{place_of(config)}: the TLS handshake failed: {said}", hint=_CERTIFICATE)
