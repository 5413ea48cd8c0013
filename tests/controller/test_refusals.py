"""What the log says of those who were not let in: every reason, and never more than so much."""

from __future__ import annotations

from directview.controller._refusals import EACH, LINES, SPAN, Refusals


def test_each_reason_is_told_once_in_a_minute_for_each_address() -> None:
    refusals = Refusals()
    first = refusals.add("10.0.0.1", "came without our keys", 0.0)
    assert first == ["refused a connection: 10.0.0.1 came without our keys"]
    assert refusals.add("10.0.0.1", "came without our keys", 1.0) == []
    assert refusals.add("10.0.0.2", "came without our keys", 2.0) != []
    assert refusals.add("10.0.0.1", "has an unknown key (1)", 3.0) != []
    (gone,) = refusals.add(None, "came without our keys", 3.0)
    assert gone.startswith("refused a connection: somebody who was gone")
    said = refusals.add("10.0.0.1", "the key is for role 'engine'", 4.0, expelled=True)
    assert said == ["expelled a peer at 10.0.0.1: the key is for role 'engine'"]


def test_what_was_left_out_is_told_by_number_when_the_minute_is_over() -> None:
    refusals = Refusals()
    for _ in range(5):
        refusals.add("10.0.0.1", "came without our keys", 100.0)
    assert refusals.due == 100.0 + SPAN
    (line,) = refusals.sum_up()
    assert line == "4 more connections were refused or cut off within 60 s: 10.0.0.1 (4)"
    assert refusals.add("10.0.0.1", "came without our keys", 161.0) != []
    assert refusals.sum_up() == []


def test_the_minute_ends_with_whoever_comes_after_it_too() -> None:
    refusals = Refusals()
    for _ in range(2):
        refusals.add("a", "x", 0.0)
    assert refusals.add("a", "x", SPAN) == [
        "1 more connections were refused or cut off within 60 s: a (1)",
        "refused a connection: a x",
    ]


def test_a_flood_has_so_many_lines_and_hides_no_other_address() -> None:
    """From one address with a new reason each time, then from thousands."""
    refusals = Refusals()
    lines = [
        line for n in range(10_000) for line in refusals.add("10.6.6.6", f"has an unknown key ({n})", 1.0)
    ]
    assert len(lines) == EACH
    assert refusals.add("10.0.0.1", "came without our keys", 2.0) != []
    lines = [line for n in range(100_000) for line in refusals.add(f"10.{n}", "came without our keys", 3.0)]
    assert len(lines) == LINES - EACH - 1
    (line,) = refusals.sum_up()
    assert f"{110_001 - LINES} more connections" in line
    assert "10.6.6.6 (9980), " in line
    assert "others (" in line


def test_a_reason_of_the_other_sides_is_cut() -> None:
    (line,) = Refusals().add("a", "x" * 10_000, 0.0)
    assert len(line) < 400
