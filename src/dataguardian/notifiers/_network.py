"""What can go wrong on the way to any server, in our words."""

from __future__ import annotations

import socket
import ssl

from dataguardian.domain.errors import NotifierError, NotifierRejectedError, NotifierTransientError


def tls_context(*, verify: bool, ca_file: str | None) -> ssl.SSLContext:
    """Returns a client's context; raises NotifierRejectedError when the file of authorities cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise NotifierRejectedError(
            f"the file of certificate authorities {ca_file} cannot be read: {error.strerror or error}",
            hint="give the path of a PEM file that this service may read",
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def network_error(error: OSError, where: str) -> NotifierError:
    """Translates an error of a socket, a name server or TLS; `where` holds no secret."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return NotifierRejectedError(
            f"{where} has a certificate that is not trusted: {error.verify_message}",
            hint="name the authority that issued it in ca_file, or correct the host name",
        )
    if isinstance(error, ssl.SSLError):
        return NotifierTransientError(
            f"{where} did not agree on TLS: {error.reason or error}",
            hint="check that this port speaks TLS, and that the server's TLS is not outdated",
        )
    if isinstance(error, socket.gaierror):
        return NotifierTransientError(f"{where}: the name cannot be resolved", hint="check the host name and DNS")
    if isinstance(error, TimeoutError):
        return NotifierTransientError(
            f"{where} did not finish in time", hint="check that the server is up and not blocked by a firewall"
        )
    return NotifierTransientError(
        f"{where} cannot be reached: {error.strerror or type(error).__name__}", hint="check host and port"
    )
