"""For all tests: what one does to this process is undone before the next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from hypothesis import HealthCheck, settings

from directview import operations

# A machine that is busy elsewhere for a second says nothing about an example.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def not_an_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that makes this process look like an engine does so for itself alone."""
    monkeypatch.setattr(operations, "_bound", ContextVar("tests.bound"))
    yield
    # An engine's IPython shell would have the next client activate its magics, which hold on to it.
    module = sys.modules.get("IPython.core.interactiveshell")
    if module is not None and module.InteractiveShell.initialized():
        shell = module.InteractiveShell.instance()
        if type(shell).__name__ == "EngineShell":
            type(shell).clear_instance()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why a test failed that passed when it was run again: nobody would know otherwise."""
    again = terminalreporter.stats.get("rerun", [])
    if again:
        terminalreporter.section("failed at first, run again")
        for report in again:
            terminalreporter.section(report.nodeid, "_")
            terminalreporter.line(report.longreprtext)
