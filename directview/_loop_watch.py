"""Noticing that an event loop does not turn, and saying what it is doing instead.

All that a process hears and says goes through its loop; a function that blocks it for seconds makes the
whole cluster look slow. A small thread looks twice a second whether the loop has turned meanwhile, and if
not, writes down where its thread is. It costs four wake-ups a second. A process that got no processor itself,
because it was stopped or the machine is overloaded, is told apart: then the watching thread is late as well.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from typing import Final

__all__ = ["THRESHOLD", "LoopWatch"]

THRESHOLD: Final = 0.5
"""Seconds of lag that are worth a word."""
_WINDOW: Final = 60.0
_OWN: Final = "directview-loop-watch"


class LoopWatch:
    """Watches the loop on whose thread `start` is called.

    Args:
        logger: where to say it.
        what: what to call the loop: ``the controller's loop``.
        excused: whether it is right now blocked by something that may: a plain function of a user, on an
            engine. Asked on another thread.
        threshold: seconds.
        level: at which to say it.
        signals: to be delivered on the watching thread, if all others block them.
    """

    def __init__(
        self,
        logger: logging.Logger,
        what: str,
        excused: Callable[[], bool] = lambda: False,
        threshold: float = THRESHOLD,
        level: int = logging.WARNING,
        signals: Collection[int] = (),
    ) -> None:
        self._logger = logger
        self._what = what
        self._excused = excused
        self._threshold = threshold
        self._level = level
        self._signals = signals
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._beaten = 0.0
        self._told = False
        """This time it has been said that the loop is blocked."""
        self._may = False
        """This time it is blocked by what may."""
        self._longest = (0.0, 0.0)
        """In this minute, and in the one before."""
        self._since = 0.0
        self.blocked = 0
        """How often it was."""

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop = asyncio.get_running_loop()
        self._ident = threading.get_ident()
        self._stop.clear()
        self._beaten = self._since = time.monotonic()
        self._timer = self._loop.call_later(self._threshold, self._beat)
        self._thread = threading.Thread(target=self._watch, name=_OWN, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more. On the loop's thread; may be repeated."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(1.0)

    def longest(self) -> float:
        """Seconds by which the loop was late at worst, in the last minute or two."""
        return max(self._longest)

    # --- on the loop ----------------------------------------------------------------------------------------

    def _beat(self) -> None:
        now = time.monotonic()
        lag = now - self._beaten - self._threshold
        may, told = self._may, self._told
        self._beaten, self._may, self._told = now, False, False
        if now - self._since > _WINDOW:
            self._longest, self._since = (0.0, self._longest[0]), now
        if not may:
            self._longest = (max(self._longest[0], lag), self._longest[1])
        if told:
            self._logger.info("%s turns again, %.1f s late", self._what, lag)
        self._timer = self._loop.call_later(self._threshold, self._beat)

    # --- on the thread --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        asleep = time.monotonic()
        while not self._stop.wait(self._threshold):
            now = time.monotonic()
            overslept, asleep = now - asleep - self._threshold, now
            lag = now - self._beaten - self._threshold
            if lag < self._threshold or self._told or self._may:
                continue
            if overslept > self._threshold / 2:
                self._logger.info("this process got no processor for %.1f s", overslept)
            elif self._excused():
                self._may = True
            else:
                self._told = True
                self.blocked += 1
                self._logger.log(
                    self._level,
                    "%s has not turned for %.1f s",
                    self._what,
                    lag,
                    extra={"trace": self._where()},
                )

    def _where(self) -> str:
        frame = sys._current_frames().get(self._ident)
        return "".join(traceback.format_stack(frame)[-40:]) if frame is not None else ""
