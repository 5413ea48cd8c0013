"""Figures for Prometheus: under names that follow its conventions, at this machine's loopback by default."""

from __future__ import annotations

import socket
import urllib.request
from typing import Any

import pytest

from directview.controller._meter import Meter
from directview.controller._metrics import address_of, serve_metrics
from directview.errors import LaunchError

STATUS: dict[str, Any] = {
    "uptime": 2.5,
    "calls": 7,
    "results": 6,
    "meter": {**Meter().contents(), "bytes_in": 1234, "lag": 0.25},
    "clients": [{"connected": True}, {"connected": False}],
    "supervisors": [{}],
    "engines": [{"id": 3, "connected": True, "queue": 4, "tasks": 1, "completed": 6}],
}


@pytest.mark.parametrize(
    ("given", "address"),
    [("9100", ("127.0.0.1", 9100)), ("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:65535", ("::1", 65_535))],
)
def test_an_address_is_a_port_or_host_and_port(given: str, address: tuple[str, int]) -> None:
    assert address_of(given) == address


@pytest.mark.parametrize("given", ["", "http", "0", "65536", "host:", "-1"])
def test_what_is_no_address_is_named(given: str) -> None:
    with pytest.raises(ValueError, match="metrics: expected a port"):
        address_of(given)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_prometheus_finds_the_figures() -> None:
    pytest.importorskip(
        "prometheus_client", reason="prometheus_client is not installed: the extra directview[metrics]"
    )
    parser = pytest.importorskip("prometheus_client.parser", reason="likewise")
    port = free_port()
    close = serve_metrics(str(port), lambda: STATUS)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        with pytest.raises(LaunchError, match=f"can't serve metrics at 127.0.0.1:{port}"):
            serve_metrics(str(port), lambda: STATUS)
    finally:
        close()
    found = {
        (sample.name, sample.labels.get("engine")): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["directview_calls_total", None] == 7
    assert found["directview_received_bytes_total", None] == 1234
    assert found["directview_loop_lag_seconds", None] == 0.25
    assert found["directview_clients", None] == 1
    assert found["directview_engine_queued_calls", "3"] == 4
    assert found["directview_engine_completed_calls_total", "3"] == 6
    assert found["process_resident_memory_bytes", None] > 1e6


def test_without_prometheus_client_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with pytest.raises(LaunchError, match=r"pip install directview\[metrics\]"):
        serve_metrics("9100", lambda: STATUS)
