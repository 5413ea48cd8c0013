"""The controller's figures for Prometheus, on request: an HTTP server on a thread of its own.

prometheus_client does it all; here is only which figures there are. They are taken on the controller's loop
at the moment when somebody asks, so nothing is counted twice and nothing costs while nobody does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from directview.errors import LaunchError

__all__ = ["address_of", "serve_metrics"]

_LOOPBACK: Final = "127.0.0.1"

_CLUSTER: Final = (
    ("calls", "calls", "Calls that clients have made; one on several engines counts once."),
    ("results", "results", "Calls that engines have ended; one on several engines counts for each."),
)
_METER: Final = (
    ("messages_in", "received_messages", "Messages that came to the controller."),
    ("messages_out", "sent_messages", "Messages that left it."),
    ("bytes_in", "received_bytes", "Bytes that came to the controller."),
    ("bytes_out", "sent_bytes", "Bytes that left it."),
    ("blocked", "loop_blocked", "How often its event loop did not turn for half a second."),
)
_ENGINE: Final = (
    ("queue", "engine_queued_calls", "Calls that wait in the controller for this engine."),
    ("tasks", "engine_given_calls", "Calls that the engine has been given and has not ended."),
)


def address_of(metrics: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``; the host is this machine's loopback, unless one is named.

    Raises:
        ValueError: it is none.
    """
    host, _, port = metrics.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) <= 65_535:
        raise ValueError(f"metrics: expected a port, or HOST:PORT, got {metrics!r:.60}")
    return host.strip("[]") or _LOOPBACK, int(port)


def serve_metrics(metrics: str, status: Callable[[], dict[str, Any]]) -> Callable[[], None]:
    """Serve ``/metrics``; returns what ends that.

    Args:
        metrics: ``[HOST:]PORT``.
        status: the answer to the query of that name. Called on the server's thread.

    Raises:
        ValueError: `metrics` makes no sense.
        LaunchError: prometheus_client is not installed, or the port is taken.
    """
    host, port = address_of(metrics)
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
    except ImportError:
        raise LaunchError(
            "metrics need prometheus_client: `pip install directview[metrics]`, or leave --metrics out"
        ) from None
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Figures(status))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise LaunchError(f"can't serve metrics at {host}:{port}: {error.strerror}") from None

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join(1.0)

    return close


class _Figures:
    """A collector, as prometheus_client wants it."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def describe(self) -> list[Any]:
        """Nothing: to describe them would be to ask for them, before the controller runs."""
        return []

    def collect(self) -> Iterator[Any]:
        """The figures as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found = self._status()
        for key, name, text in _CLUSTER:
            yield CounterMetricFamily(f"directview_{name}", text, value=found[key])
        for key, name, text in _METER:
            yield CounterMetricFamily(f"directview_{name}", text, value=found["meter"][key])
        for name, text, value in (
            (
                "loop_lag_seconds",
                "By how much the event loop was late at worst, lately.",
                found["meter"]["lag"],
            ),
            ("uptime_seconds", "Since the controller started.", found["uptime"]),
            ("clients", "Clients that are connected.", sum(peer["connected"] for peer in found["clients"])),
            ("engines", "Engines that are connected.", sum(peer["connected"] for peer in found["engines"])),
            ("supervisors", "Supervisors that are connected.", len(found["supervisors"])),
        ):
            yield GaugeMetricFamily(f"directview_{name}", text, value=value)
        for key, name, text in _ENGINE:
            gauge = GaugeMetricFamily(f"directview_{name}", text, labels=["engine"])
            for engine in found["engines"]:
                gauge.add_metric([str(engine["id"])], engine[key])
            yield gauge
        ended = CounterMetricFamily(
            "directview_engine_completed_calls", "Calls that this engine has ended.", labels=["engine"]
        )
        for engine in found["engines"]:
            ended.add_metric([str(engine["id"])], engine["completed"])
        yield ended
