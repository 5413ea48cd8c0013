"""Keys: made, checked, and matched to roles."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import pytest
from zmq.utils import z85

from directview.wire.curve import ROLES, CurveKeys, KeyPair, ServerCurve, fingerprint, new_keys
from directview.wire.zap import DOMAIN, Gatekeeper


def test_keys_are_fresh_text_that_fits_a_connection_file() -> None:
    first, second = new_keys(), new_keys()
    assert len({first.public, first.secret, second.public, second.secret}) == 4
    assert {len(key) for key in (first.public, first.secret)} == {40}


@pytest.mark.parametrize("key", ["", "short", "ü" * 40, "~" * 40, '"' * 40, None, b"x" * 40])
def test_what_is_no_key_is_refused_by_name(key: Any) -> None:
    good = new_keys()
    with pytest.raises(ValueError, match="server_public is not a CURVE key"):
        CurveKeys(key, good.public, good.secret)
    with pytest.raises(ValueError, match="secret is not a CURVE key"):
        KeyPair(good.public, key)


def test_secrets_do_not_show() -> None:
    pair = new_keys()
    curve = ServerCurve(pair, pair, pair, pair)
    assert pair.secret not in repr(pair) + repr(curve) + repr(curve.keys_for("client"))


def test_each_role_has_the_servers_public_key_and_a_pair_of_its_own() -> None:
    curve = ServerCurve.new()
    pairs = {"client": curve.client, "engine": curve.engine, "supervisor": curve.supervisor}
    assert tuple(pairs) == ROLES
    assert len({pair.public for pair in (curve.server, *pairs.values())}) == 4
    for role, pair in pairs.items():
        assert curve.keys_for(role) == CurveKeys(curve.server.public, pair.public, pair.secret)
        assert curve.role_of(pair.public) == role
    assert curve.role_of(curve.server.public) is None
    assert curve.role_of("") is None


def request(curve: ServerCurve, **changes: bytes) -> list[bytes]:
    fields = {
        "version": b"1.0",
        "number": b"1",
        "domain": DOMAIN,
        "address": b"127.0.0.1",
        "identity": b"",
        "mechanism": b"CURVE",
        "key": z85.decode(curve.client.public.encode()),
    }
    return list({**fields, **changes}.values())


def answer(curve: ServerCurve, parts: list[bytes]) -> tuple[bytes, bytes]:
    """(status, role) for an authentication request."""
    gatekeeper = gatekeeper_of(curve, [])
    _, _, status, _, role, _ = gatekeeper._answer(parts)
    return status, role


def gatekeeper_of(curve: ServerCurve, refusals: list[str]) -> Gatekeeper:
    """One without a socket."""
    gatekeeper = Gatekeeper.__new__(Gatekeeper)
    gatekeeper._curve = curve
    gatekeeper._on_refused = lambda address, reason: refusals.append(f"{address} {reason}")
    gatekeeper._retired = deque()
    gatekeeper.refused = 0
    return gatekeeper


def test_keys_that_were_replaced_are_refused_and_told_apart() -> None:
    curve, refusals = ServerCurve.new(), list[str]()
    gatekeeper = gatekeeper_of(curve, refusals)
    gatekeeper.replace(ServerCurve.new(curve.server))
    for role in ROLES[1:]:
        key = z85.decode(curve.pair_of(role).public.encode())
        assert gatekeeper._answer(request(curve, key=key))[2] == b"400"
        assert "has a key that was replaced" in refusals.pop()
    assert gatekeeper._answer(request(curve))[2] == b"400"
    assert gatekeeper._answer(request(curve, key=bytes(32)))[2] == b"400"
    assert refusals[0] == f"127.0.0.1 has a key that was replaced ({fingerprint(curve.client.public)})"
    assert refusals[1].startswith("127.0.0.1 has an unknown key (")
    assert gatekeeper.refused == 4


def test_fingerprints_tell_keys_apart() -> None:
    keys = [new_keys().public for _ in range(20)]
    assert len({fingerprint(key) for key in keys}) == 20
    assert re.fullmatch(r"([0-9a-f]{4}:){3}[0-9a-f]{4}", fingerprint(keys[0]))
    assert fingerprint(keys[0]) == fingerprint(keys[0])


def test_the_gatekeeper_lets_in_exactly_the_known_keys() -> None:
    curve = ServerCurve.new()
    assert answer(curve, request(curve)) == (b"200", b"client")
    for role in ROLES:
        key = z85.decode(curve.pair_of(role).public.encode())
        assert answer(curve, request(curve, key=key)) == (b"200", role.encode())
    for change in (
        {"key": bytes(32)},
        {"key": b""},
        {"mechanism": b"NULL"},
        {"mechanism": b"PLAIN"},
        {"domain": b"another"},
        {"version": b"2.0"},
    ):
        assert answer(curve, request(curve, **change)) == (b"400", b"")
    assert answer(curve, request(curve)[:4]) == (b"400", b"")
    assert answer(curve, []) == (b"400", b"")
