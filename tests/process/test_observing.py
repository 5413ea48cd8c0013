"""What a running cluster tells about itself: logs, stacks, traces, figures."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from directview import Client, Cluster

DEADLINE = 30.0
PROFILE = "watched"

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """A named cluster of two engines that says all it can."""
    with Cluster(n=2, profile=PROFILE, log_level="debug") as client:
        yield client


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "directview", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(*arguments: str) -> str:
    with command(*arguments) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    return out


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE:g} s: {what}")


# --- logs --------------------------------------------------------------------------------------------


def test_every_process_logs_into_the_profiles_folder(rc: Client) -> None:
    lines = said("logs", "--profile", PROFILE).splitlines()
    found = {line.split()[1] for line in lines}
    assert {"controller", "supervisor", "engine.0", "engine.1"} <= found
    one = said("logs", "--profile", PROFILE, "--process", "engine.1").splitlines()
    assert one
    assert {line.split()[1] for line in one} == {"engine.1"}
    assert said("logs", "--profile", PROFILE, "--where").strip() == str(Path(rc._info.source).parent)


def test_no_call_and_no_users_data_is_logged(rc: Client) -> None:
    def with_secrets(password: str) -> None:
        print(password)
        raise ValueError(password)

    said_before = said("logs", "--profile", PROFILE, "-n", "0", "--level", "debug").count("\n")
    for _ in range(100):
        rc[:].apply(with_secrets, "open sesame").wait(DEADLINE)
    text = said("logs", "--profile", PROFILE, "-n", "0", "--level", "debug")
    assert "sesame" not in text
    assert "with_secrets" not in text
    assert text.count("\n") < said_before + 100


def test_logs_are_followed_and_a_client_logs_on_request(rc: Client) -> None:
    with command("logs", "-f", "--profile", PROFILE, "--process", "client", "-n", "1") as process:
        try:
            assert process.stdout is not None
            # Whenever it begins to follow: clients go on to come.
            for _ in range(100):
                with Client(profile=PROFILE, log_level="info") as other:
                    assert other.ids == rc.ids
                if (process.poll() is not None) or _readable(process.stdout):
                    break
            line = process.stdout.readline()
        finally:
            process.kill()
    assert line.split()[1] == "client"
    assert "is connected to cluster" in line


def _readable(file: Any) -> bool:
    import select

    return bool(select.select([file], [], [], 0.1)[0])


def test_an_engines_end_is_told_with_its_reason(own_folders: Path) -> None:
    """Of a cluster without a name too, which is found by its id as long as it lives."""
    with Cluster(n=1) as rc:
        assert rc.cluster is not None
        rc[0].apply(__import__("os")._exit, 3).wait(DEADLINE)

        def told() -> str:
            text = said("logs", "--cluster-id", rc.cluster.cluster_id if rc.cluster else "")
            return text if "engine 0 is gone: exited with code 3" in text else ""

        assert "supervisor" in until(told, "the end")
