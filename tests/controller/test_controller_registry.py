"""Who is connected: stable ids, routes that are replaced, and what a controller that takes over knows."""

from __future__ import annotations

from directview.controller._registry import MOST_ENGINES, Registry
from directview.wire.messages import PROTOCOL_VERSION, Hello


def uuid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def hello(role: str, number: int, wanted: int = -1, *, resuming: bool = False) -> Hello:
    return Hello(PROTOCOL_VERSION, role, uuid(number), "c", 0, wanted, b"", resuming, 42, "host", "3", b"")


def test_ids_are_handed_out_from_zero_in_order() -> None:
    registry = Registry()
    assert [registry.join_engine(hello("engine", n), b"%d" % n)[0].id for n in range(3)] == [0, 1, 2]
    assert [info.id for info in registry.infos()] == [0, 1, 2]


def test_an_id_is_never_given_to_another_engine() -> None:
    registry = Registry()
    for n in range(2):
        registry.join_engine(hello("engine", n), b"%d" % n)
    registry.remove_engine(registry.engines[1])
    assert registry.join_engine(hello("engine", 9), b"9")[0].id == 2


def test_a_restarted_engine_takes_the_place_that_it_is_told_to_take() -> None:
    registry = Registry()
    registry.join_engine(hello("engine", 1), b"1")
    registry.remove_engine(registry.engines[0])
    assert registry.join_engine(hello("engine", 2, wanted=0), b"2")[0].id == 0


def test_a_wanted_id_that_is_taken_or_absurd_is_not_given() -> None:
    """An absurd one would leave no ids for those that come after."""
    registry = Registry()
    registry.join_engine(hello("engine", 1), b"1")
    assert registry.join_engine(hello("engine", 2, wanted=0), b"2")[0].id == 1
    assert registry.join_engine(hello("engine", 3, wanted=MOST_ENGINES), b"3")[0].id == 2
    assert registry.join_engine(hello("engine", 4, wanted=100), b"4")[0].id == 100
    assert registry.join_engine(hello("engine", 5), b"5")[0].id == 101


def test_a_peer_that_comes_back_is_the_same_on_a_new_route() -> None:
    registry = Registry()
    engine, replaced = registry.join_engine(hello("engine", 1), b"1")
    assert replaced is None
    engine.ended, engine.exit_code = True, 1
    again, replaced = registry.join_engine(hello("engine", 1, resuming=True), b"2")
    assert again is engine
    assert (replaced, engine.route, engine.resuming) == (b"1", b"2", True)
    assert not again.ended
    assert again.exit_code is None
    client, _ = registry.join_client(hello("client", 5), b"3")
    assert registry.join_client(hello("client", 5), b"4") == (client, b"3")
    registry.join_supervisor(hello("supervisor", 6), b"5")
    newer, replaced = registry.join_supervisor(hello("supervisor", 6), b"6")
    assert replaced == b"5"
    assert registry.routes == {b"2": engine, b"4": client, b"6": newer}


def test_what_is_removed_is_gone_by_every_name() -> None:
    registry = Registry()
    engine, _ = registry.join_engine(hello("engine", 1), b"1")
    client, _ = registry.join_client(hello("client", 2), b"2")
    registry.remove_engine(engine)
    registry.remove_client(client)
    assert (registry.routes, registry.engines, registry.clients) == ({}, {}, {})
    assert registry.engine_of(uuid(1)) is None


def test_a_registry_that_takes_over_keeps_ids_and_clients() -> None:
    registry = Registry()
    registry.join_engine(hello("engine", 1), b"1")
    registry.join_engine(hello("engine", 2), b"2")
    registry.join_client(hello("client", 3), b"3")
    after = Registry(registry.known())
    assert after.infos() == ()
    assert list(after.clients) == [uuid(3)]
    assert after.join_engine(hello("engine", 9, wanted=1), b"9")[0].id == 2
    assert after.join_engine(hello("engine", 2, wanted=1), b"2")[0].id == 1
    assert after.known() == {uuid(1): 0, uuid(2): 1, uuid(9): 2, uuid(3): -1}


def test_an_engine_is_ready_when_it_is_connected_and_has_said_what_it_holds() -> None:
    registry = Registry()
    engine, _ = registry.join_engine(hello("engine", 1, resuming=True), b"1")
    ready = [engine.ready]
    engine.resuming = False
    ready.append(engine.ready)
    engine.ended = True
    ready.append(engine.ready)
    assert ready == [False, True, False]
