"""An SFTP server that lets somebody in by password: asyncssh's own, because a real sshd asks the system's accounts.

Run as `python -m tests.ssh.password_peer PORT FOLDER`, with `DG_PEER_PASSWORD` in the environment; whoever signs in
sees `FOLDER` as the root.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import asyncssh

USER = "us er"


class Server(asyncssh.SSHServer):
    """Knows one user and one password."""

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, os.environ["DG_PEER_PASSWORD"])


async def serve(port: int, folder: str) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    sftp = partial(asyncssh.SFTPServer, chroot=folder.encode())
    await asyncssh.create_server(Server, "127.0.0.1", port, server_host_keys=[key], sftp_factory=sftp)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
