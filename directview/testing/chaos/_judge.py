"""What became of every call, and which faults explain it. Pure: records in, a verdict out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

__all__ = ["Happening", "Verdict", "judge"]

REACH: Final = 12.0
"""Seconds for which a fault explains what is noticed later: a frozen engine is given up after a heartbeat's
timeout, and its calls may wait behind a frozen controller meanwhile."""
LONG_REACH: Final = 45.0
"""The same where everybody is waited for, thirty seconds long, because the controller may come back."""
HARD: Final = 0.9
"""Seconds that an engine must be frozen or cut off to be given up for it."""
AWAY: Final = 0.9
"""Seconds that a client must be away to be given up, or to give up, under policy ``stop``: its lease is two
seconds, and one absence may follow upon another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """A fault as it really happened."""

    kind: str
    began: float
    ended: float
    engines: frozenset[int] = frozenset()
    """Engines that it may have cost their lives, or a call its answer."""
    remote: bool = False
    """Whether that goes for all engines behind the network, those included that have just come."""
    clients: frozenset[str] = frozenset()
    """Clients that may have missed something by it."""
    cut_off: frozenset[str] = frozenset()
    """Clients that had to find the controller again, for which they take no longer than their lease,"""
    silent: bool = False
    """while this one says that it answered nobody."""
    fatal: bool = False
    """Whether it ends the whole cluster."""

    reach: float = REACH

    def near(self, began: float, ended: float) -> bool:
        """Whether it can have to do with something that lasted from `began` to `ended`."""
        return self.began <= ended and began <= self.ended + self.reach


@dataclass(slots=True)
class Verdict:
    """What an episode has come to."""

    ends: Counter[str] = field(default_factory=Counter)
    """How calls ended: right, cancelled, or in which kind of error."""
    kinds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    """How often something ran on an engine."""
    killed: int = 0
    """Client programs that were killed: nobody waits for what they had begun."""
    slowest: tuple[float, str] = (0.0, "")
    """Seconds from a call to its end, at most; and which call that was."""
    last: tuple[float, str] = (0.0, "")
    """Seconds from a death that ended a cluster to the end of its last call; and which call that was."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Calls of which the end is known."""
        return sum(self.kinds.values())

    @property
    def problems(self) -> list[str]:
        """All that is not as it should be, a line each."""
        named = {
            "lost": self.lost,
            "doubled": self.doubled,
            "wrong": self.wrong,
            "hung": self.hung,
            "leaked": self.leaked,
        }
        return [f"{what}: {line}" for what, lines in named.items() for line in lines]

    def add(self, other: Verdict) -> None:
        """Count another episode in."""
        self.ends += other.ends
        self.kinds += other.kinds
        self.faults += other.faults
        self.runs += other.runs
        self.killed += other.killed
        self.slowest = max(self.slowest, other.slowest)
        self.last = max(self.last, other.last)
        for name in ("lost", "doubled", "wrong", "hung", "leaked"):
            getattr(self, name).extend(getattr(other, name))


def judge(
    calls: Sequence[Mapping[str, Any]],
    runs: Mapping[str, Counter[int]],
    happenings: Sequence[Happening],
    remote: Collection[int] = (),
) -> Verdict:
    """Compare what clients were told with what ran and with what was done to them.

    Args:
        calls: `CallRecord`s as plain data.
        runs: token → how often it ran, by process.
        happenings: the faults.
        remote: the engines behind the network.
    """
    happenings = [
        replace(each, engines=each.engines | set(remote)) if each.remote else each for each in happenings
    ]
    verdict = Verdict(runs=sum([sum(each.values()) for each in runs.values()]))
    verdict.faults.update([happening.kind for happening in happenings])
    allowed: dict[str, int] = {}
    for call in calls:
        allowed[call["token"]] = call["times"]
        _judge_end(call, runs.get(call["token"], Counter()), happenings, verdict)
    for token, processes in runs.items():
        # Of a client that was killed nothing is known but this: what it called ran once on each engine.
        most, in_all = max(processes.values()), sum(processes.values())
        if most > 1 and allowed.get(token, 1) <= 1:
            verdict.doubled.append(f"{token} ran {most} times in one process")
        elif token in allowed and in_all > allowed[token]:
            verdict.doubled.append(f"{token} ran {in_all} times, at most {allowed[token]} would be right")
    return verdict


def _judge_end(
    call: Mapping[str, Any], ran: Counter[int], happenings: Sequence[Happening], verdict: Verdict
) -> None:
    how, name = call["how"], f"{call['kind']} call {call['token']} on {call['targets'] or 'any engine'}"
    verdict.kinds[call["kind"]] += 1
    verdict.slowest = max(verdict.slowest, (call["ended"] - call["began"], f"{name}: {how}"))
    for death in [happening for happening in happenings if happening.fatal]:
        verdict.last = max(verdict.last, (call["ended"] - death.began, f"{name}: {how}"))
    if how == "error":
        verdict.ends.update({error["type"] for error in call["errors"]})
        for error in call["errors"]:
            if not _explained(call, error, happenings):
                verdict.lost.append(f"{name}: {error['type']}: {error['text']}")
            elif error["started"] is False and len(call["targets"]) == 1 and ran and call["kind"] != "stream":
                # (A stream is several calls: that the last one has not run says nothing about the first.)
                verdict.wrong.append(f"{name} ran, although: {error['text']}")
        return
    verdict.ends[how] += 1
    if how == "wrong":
        verdict.wrong.append(f"{name}: {call['errors'][0]['text']}")
    elif how == "hung":
        verdict.hung.append(f"{name}: no end after {call['ended'] - call['began']:.0f} s")
    elif (
        how == "right" and call["times"] and sum(ran.values()) < min(call["times"], len(call["targets"]) or 1)
    ):
        verdict.lost.append(f"{name} has a result, but ran {sum(ran.values())} times")


def _explained(call: Mapping[str, Any], error: Mapping[str, Any], happenings: Sequence[Happening]) -> bool:
    """Whether a fault is the reason for this error."""
    client = call["token"].rpartition("-")[0]
    near = [happening for happening in happenings if happening.near(call["began"], call["ended"])]
    for happening in near:
        if happening.fatal and error["type"] in ("EngineError", "ControllerLost"):
            return True
        if error["type"] == "EngineError" and error["engine"] in happening.engines:
            return True
        if error["type"] in ("EngineError", "ControllerLost") and client in happening.clients:
            return True
    # One of the two costs nothing but time.
    silences = [each for each in near if each.silent and each.ended - each.began >= AWAY]
    return error["type"] in ("EngineError", "ControllerLost") and any(
        [
            client in cut.cut_off and silence.began <= cut.ended + AWAY and cut.began <= silence.ended
            for cut in near
            for silence in silences
        ]
    )
