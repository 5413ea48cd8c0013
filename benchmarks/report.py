"""Pure: what one run found out, in memory and as JSON.

The JSON file holds what was measured, round by round, and beside it, for whoever reads it with other
tools, what follows from it: medians, ratios, targets. Only the former is read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.figures import UNITS, Figure, FigureName, times_better
from benchmarks.targets import Target, Verdict, judge
from benchmarks.works import Work

__all__ = ["FORMAT", "SUBJECT", "Participant", "Refusal", "Report", "ReportError"]

FORMAT = 2
SUBJECT = "directview"

Role = Literal["subject", "variant", "peer", "limit"]


class ReportError(ValueError):
    """A file that is no report of this harness."""


@dataclass
class Participant:
    """Whoever was asked to do the work."""

    name: str
    role: Role
    title: str
    versions: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    """Why it did not take part; empty if it did."""
    left_behind: int = 0
    """Processes that were still there after it had ended, in all rounds together."""


@dataclass(frozen=True)
class Refusal:
    """A work that has no figure for this peer, and why."""

    work: str
    peer: str
    reason: str
    failed: bool
    """It should have worked; otherwise it is nothing that the peer offers."""


@dataclass
class Report:
    """One run."""

    started: str
    depth: str
    rounds: int
    machine: dict[str, Any]
    works: dict[str, str]
    """name → title, in order."""
    participants: dict[str, Participant] = field(default_factory=dict)
    figures: dict[tuple[FigureName, str], Figure] = field(default_factory=dict)
    """By name and peer."""
    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    """By work and peer."""
    seconds: float = 0.0
    """How long all rounds took."""

    # --- while it is being made -----------------------------------------------------------------------

    def add(self, work: Work, peer: str, number: int, figures: Mapping[str, float]) -> None:
        """Note the figures of a round. What had no time in an earlier one has a figure now."""
        refusal = self.refusals.get((work.name, peer))
        if refusal is not None and not refusal.failed:
            del self.refusals[work.name, peer]
        for what, value in figures.items():
            name = FigureName(work.name, what)
            figure = self.figures.setdefault((name, peer), Figure(name, peer))
            figure.rounds[number] = value

    def refuse(self, work: Work, peer: str, reason: str, *, failed: bool) -> None:
        """Note that there is no figure. A failure outweighs what a peer does not offer."""
        known = self.refusals.get((work.name, peer))
        if known is None or (failed and not known.failed):
            self.refusals[work.name, peer] = Refusal(work.name, peer, reason, failed)

    def measured(self, work: Work, peer: str) -> bool:
        """Whether it has a figure of this work."""
        return any([name.work == work.name and whose == peer for name, whose in self.figures])

    # --- what it says ---------------------------------------------------------------------------------

    def figure(self, work: str, what: str, peer: str = SUBJECT) -> Figure | None:
        """One figure, if it was measured."""
        return self.figures.get((FigureName(work, what), peer))

    def names(self) -> list[FigureName]:
        """All figures that anybody has, in the order of the work."""
        order = {name: place for place, name in enumerate(self.works)}
        kinds = {what: place for place, what in enumerate(UNITS)}
        found = dict.fromkeys([name for name, _ in self.figures])
        return sorted(found, key=lambda name: (order.get(name.work, len(order)), kinds[name.what]))

    def times_better(self, name: FigureName, peer: str, than: str = SUBJECT) -> float | None:
        """How many times better we (or the variant `than`) are than `peer`; None if either has no figure."""
        ours, theirs = self.figures.get((name, than)), self.figures.get((name, peer))
        return times_better(ours, theirs) if ours is not None and theirs is not None else None

    def asked(self, work: str) -> bool:
        """Whether this work was chosen."""
        return work in self.works

    def why_not(self, work: str, peer: str) -> str:
        """Why somebody has no figure of a work; empty if nothing is known."""
        participant = self.participants.get(peer)
        refusal = self.refusals.get((work, peer))
        if participant is None:
            return f"{peer} was not asked"
        if participant.missing:
            return f"{peer} is MISSING: {participant.missing}"
        if refusal is not None:
            return f"{peer}: {refusal.reason}"
        return "" if work in self.works else "the work was not chosen"

    def having(self, *roles: Role) -> list[Participant]:
        """Who took part, or should have."""
        return [participant for participant in self.participants.values() if participant.role in roles]

    def verdicts(self, targets: Iterable[Target]) -> list[Verdict]:
        """Which targets this run reaches."""
        return [judge(target, self) for target in targets]

    # --- as JSON --------------------------------------------------------------------------------------

    def to_json(self, targets: Iterable[Target] = ()) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return {
            "format": FORMAT,
            "started": self.started,
            "depth": self.depth,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "machine": self.machine,
            "works": self.works,
            "participants": [asdict(participant) for participant in self.participants.values()],
            "figures": [
                self._figure_json(self.figures[name, peer])
                for name in self.names()
                for peer in self.participants
                if (name, peer) in self.figures
            ],
            "refusals": [asdict(refusal) for refusal in self.refusals.values()],
            "targets": [asdict(verdict) for verdict in self.verdicts(targets)],
        }

    def _figure_json(self, figure: Figure) -> dict[str, Any]:
        name, peer = figure.name, figure.peer
        return {
            "work": name.work,
            "figure": name.what,
            "unit": figure.unit,
            "peer": peer,
            "rounds": {str(number): value for number, value in figure.rounds.items()},
            "median": figure.value,
            "times_better": None if peer == SUBJECT else self.times_better(name, peer),
        }

    @classmethod
    def from_json(cls, contents: Any) -> Report:
        """Read what `to_json` wrote.

        Raises:
            ReportError: it is something else, or of another format.
        """
        if not isinstance(contents, dict) or "format" not in contents:
            raise ReportError("this is no benchmark report")
        if contents["format"] != FORMAT:
            raise ReportError(f"the report's format is {contents['format']!r}; this harness reads {FORMAT}")
        try:
            report = cls(
                contents["started"],
                contents["depth"],
                contents["rounds"],
                contents["machine"],
                contents["works"],
                seconds=contents["seconds"],
            )
            for entry in contents["participants"]:
                report.participants[entry["name"]] = Participant(**entry)
            for entry in contents["figures"]:
                name = FigureName(entry["work"], entry["figure"])
                rounds = {int(number): float(value) for number, value in entry["rounds"].items()}
                report.figures[name, entry["peer"]] = Figure(name, entry["peer"], rounds)
            for entry in contents["refusals"]:
                refusal = Refusal(**entry)
                report.refusals[refusal.work, refusal.peer] = refusal
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReportError(f"the report is damaged: {type(error).__name__}: {error}") from error
        return report
