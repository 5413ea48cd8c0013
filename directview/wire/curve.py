"""Keys of CURVE, which encrypts and authenticates every TCP connection; unix sockets need none.

Keys are z85 text of 40 characters, as they stand in connection files. The controller has one key pair;
every role has one too, and the controller lets in exactly the public keys it was given.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import zmq
from zmq.utils import z85

__all__ = ["ROLES", "CurveKeys", "KeyPair", "ServerCurve", "fingerprint", "new_keys"]

ROLES: Final = ("client", "engine", "supervisor")
"""Each has a key pair of its own."""
_KEY_LENGTH: Final = 40


def _check_key(name: str, key: str) -> None:
    try:
        right = type(key) is str and len(key) == _KEY_LENGTH and len(z85.decode(key.encode("ascii"))) == 32
    except (ValueError, KeyError):
        right = False
    if not right:
        raise ValueError(
            f"{name} is not a CURVE key (40 characters of z85 text): the connection file is damaged, "
            "copy it again"
        )


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and the secret one that belongs to it; the secret never shows in a repr."""

    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_key("public", self.public)
        _check_key("secret", self.secret)


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """What a peer needs to connect: the controller's public key and its own key pair.

    Raises:
        ValueError: one of them is not a key.
    """

    server_public: str
    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_key("server_public", self.server_public)
        _check_key("public", self.public)
        _check_key("secret", self.secret)


@dataclass(frozen=True, slots=True)
class ServerCurve:
    """What the controller needs: its own key pair, and one for each role that it lets in.

    Whoever has a role's pair may register as that role; any other key is refused in the handshake.
    """

    server: KeyPair
    client: KeyPair
    engine: KeyPair
    supervisor: KeyPair

    @classmethod
    def new(cls, server: KeyPair | None = None) -> ServerCurve:
        """Fresh pairs for all roles, and for the controller unless it has one."""
        return cls(server or new_keys(), *[new_keys() for _ in ROLES])

    def pair_of(self, role: str) -> KeyPair:
        """The pair of one of `ROLES`."""
        return {"client": self.client, "engine": self.engine, "supervisor": self.supervisor}[role]

    def keys_for(self, role: str) -> CurveKeys:
        """What a peer of one of `ROLES` needs."""
        pair = self.pair_of(role)
        return CurveKeys(self.server.public, pair.public, pair.secret)

    def role_of(self, public: str) -> str | None:
        """The role that a public key belongs to, or None: not one of ours."""
        return next((role for role in ROLES if self.pair_of(role).public == public), None)


def fingerprint(public: str) -> str:
    """A public key as people compare it: the first 64 bits of its SHA-256."""
    digest = hashlib.sha256(z85.decode(public.encode("ascii"))).hexdigest()[:16]
    return ":".join([digest[at : at + 4] for at in range(0, 16, 4)])


def new_keys() -> KeyPair:
    """A fresh pair from the system's randomness."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))
