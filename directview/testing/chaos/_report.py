"""What a run has come to, in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from directview.testing.chaos._judge import Verdict

__all__ = ["Report"]

_SHOWN: Final = 40


@dataclass(slots=True)
class Report:
    """The sum of all episodes of a run. Its text is the summary."""

    seed: int
    seconds: float
    """That were asked for."""
    took: float = 0.0
    """Seconds, with starting, stopping and looking."""
    episodes: int = 0
    resilient: int = 0
    """How many of them outlived their controllers."""
    endings: Counter[str] = field(default_factory=Counter)
    verdict: Verdict = field(default_factory=Verdict)
    left_out: tuple[str, ...] = ()
    """Kinds of faults that are not possible on this machine."""
    kept: list[str] = field(default_factory=list)
    """Where the logs of episodes with problems are."""

    @property
    def ok(self) -> bool:
        """Whether nothing is lost, doubled, wrong, hung or leaked, and something was looked at."""
        return not self.verdict.problems and self.verdict.calls > 0

    def __str__(self) -> str:
        verdict = self.verdict
        counts = {
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "wrong": verdict.wrong,
            "hung": verdict.hung,
            "leaked": verdict.leaked,
        }
        clusters = f"{self.episodes} clusters ({self.resilient} of them resilient)"
        lines = [
            f"chaos, seed {self.seed}: {clusters} in {self.took:.0f} s",
            f"  calls    {verdict.calls}: {_listed(verdict.kinds)}",
            f"  ended    {_listed(verdict.ends)}",
            f"  slowest  {verdict.slowest[0]:.1f} s: {verdict.slowest[1]}",
            f"  at last  {verdict.last[0]:.1f} s after the death of its cluster: {verdict.last[1]}",
            f"  ran      {verdict.runs} times on engines; {verdict.killed} clients were killed",
            f"  faults   {sum(verdict.faults.values())}: {_listed(verdict.faults)}",
            f"  endings  {_listed(self.endings)}",
        ]
        if not verdict.last[1]:
            lines = [line for line in lines if not line.startswith("  at last")]
        if self.left_out:
            lines.append(f"  left out, not possible here: {', '.join(self.left_out)}")
        problems = verdict.problems
        lines += [f"  {problem}" for problem in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"  and {len(problems) - _SHOWN} more")
        lines += [f"  logs: {folder}" for folder in self.kept]
        lines.append(", ".join([f"{len(found)} {what}" for what, found in counts.items()]))
        if not self.ok:
            lines.append(
                f"again: python -m directview.testing.chaos --seed {self.seed} --seconds {self.seconds:g}"
            )
        return "\n".join(lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join([f"{n} {what}" for what, n in counts.most_common()]) or "none"
