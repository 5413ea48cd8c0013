"""What is kept for later is let go of now and then, and at once when nobody would do so later."""

from __future__ import annotations

import weakref

import pytest

from directview.wire import idle


def test_all_is_let_go_of_with_the_last_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    timers: weakref.WeakSet[object] = weakref.WeakSet()
    monkeypatch.setattr(idle, "_trims", [asked.append])
    monkeypatch.setattr(idle, "_timers", timers)
    one, other = type("Timer", (), {})(), type("Timer", (), {})()
    idle.started(one)
    idle.started(other)
    idle.trim()
    idle.stopped(one)
    assert asked == [idle.IDLE_SECONDS]
    idle.stopped(other)
    assert asked == [idle.IDLE_SECONDS, 0.0]
