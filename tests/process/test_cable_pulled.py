"""A controller, engines and a client on three hosts of a network whose cable is pulled: in namespaces.

Each host is a network namespace of the kernel's with a cable (veth) to the controller's; nothing but the
network is separate, so shared memory is switched off, as it would be between real hosts. Needs root and
``ip`` (Debian: ``apt-get install iproute2``).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from directview.engine.options import EngineOptions
from directview.folders import profile_folder
from directview.testing.polling import until
from directview.wire.curve import fingerprint, new_keys


def _why_not() -> str:
    """Why there can be no such network here; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can make network namespaces"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} of iproute2 is not installed"
    name = f"dv-{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "network namespaces can't be made here (in a container, perhaps)"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


_NOT_HERE = _why_not()

pytestmark = [
    pytest.mark.process,
    pytest.mark.usefixtures("in_time"),
    pytest.mark.skipif(bool(_NOT_HERE), reason=_NOT_HERE or "-"),
]

DEADLINE = 40.0
SLOW = ("tbf", "rate", "500mbit", "burst", "1mb", "latency", "50ms")
"""How the client's cable is: a scatter of 200 MB takes three seconds, and can be caught in the middle."""
PULLED = 5.0


def run(*command: str) -> str:
    """Run a command of the system's; its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Network:
    """The controller's host and two others, with a cable to each.

    Args:
        folder: where connection files go that were "copied" to another host.
        stack: ends what was started.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        mark = secrets.token_hex(3)
        self.hosts = {name: f"dv-{mark}-{name}" for name in ("controller", "engines", "client")}
        for host in self.hosts.values():
            run("ip", "netns", "add", host)
            stack.callback(run, "ip", "netns", "del", host)
            run("ip", "-n", host, "link", "set", "lo", "up")
        for number, name in enumerate(("engines", "client"), 1):
            here, there = self.hosts["controller"], self.hosts[name]
            run("ip", "-n", here, "link", "add", "name", name, "type", "veth", "peer", "name", "cable",
                "netns", there)  # fmt: skip
            for host, device, last in ((here, name, 1), (there, "cable", 2)):
                run("ip", "-n", host, "addr", "add", f"10.203.{number}.{last}/24", "dev", device)
                run("ip", "-n", host, "link", "set", device, "up")
        self._queue("client", "cable", *SLOW)

    def _queue(self, host: str, device: str, *kind: str) -> None:
        """What a device does with what it is to send; by default it sends it."""
        do = ("replace", "dev", device, "root", *kind) if kind else ("del", "dev", device, "root")
        run("ip", "netns", "exec", self.hosts[host], "tc", "qdisc", *do)

    def start(self, name: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start Python on a host; it is ended with the test."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.hosts[name], sys.executable, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        self._stack.callback(self._end, process)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE)

    def copy(self, name: str, which: str, **changes: Any) -> str:
        """A connection file as it is needed on that host; its path."""
        contents = json.loads((profile_folder("net") / f"{which}.json").read_text())
        number = 1 if name == "engines" else 2
        port = contents["tcp"].rpartition(":")[2]
        contents |= {"ipc": None, "tcp": f"tcp://10.203.{number}.1:{port}", **changes}
        path = self.folder / f"{which}-{secrets.token_hex(3)}.json"
        path.touch(0o600)
        path.write_text(json.dumps(contents))
        return str(path)

    def sent(self, name: str) -> int:
        """Bytes that this host has sent."""
        (found,) = json.loads(run("ip", "-n", self.hosts[name], "-j", "-s", "link", "show", "cable"))
        number: int = found["stats64"]["tx"]["bytes"]
        return number

    def pull(self, name: str, how: str) -> None:
        """Pull a host's cable for `PULLED` seconds: its device goes down, or what is sent just vanishes."""
        ends = ((name, "cable"), ("controller", name))
        if how == "down":
            run("ip", "-n", self.hosts[name], "link", "set", "cable", "down")
        for end in ends if how == "lost" else ():
            self._queue(*end, "blackhole")
        time.sleep(PULLED)  # That long, and not until something happens: this is what is tested.
        if how == "down":
            run("ip", "-n", self.hosts[name], "link", "set", "cable", "up")
        for end in ends if how == "lost" else ():
            self._queue(*end, *(SLOW if end == ("client", "cable") else ()))


@pytest.fixture(scope="module")
def net(own_folders: Path) -> Iterator[Network]:
    """A cluster over it: two engines on one host, clients on another."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("DIRECTVIEW_SHARED_MEMORY", "0")
        made = Network(own_folders, stack)
        start = ["start", "-n", "0", "--profile", "net", "--ip", "*", "--resilient"]
        cluster = made.start("controller", "-m", "directview", *start)
        said = cluster.stdout
        assert said is not None
        until(lambda: "Ctrl-C" in said.readline(), "the controller")
        command = ["add-engines", "-n", "2", "--file", made.copy("engines", "engine")]
        engines = made.start("engines", "-m", "directview", *command)
        assert engines.stdout is not None
        assert "2 engines were started" in engines.stdout.readline()
        yield made


SCATTER = """\
import json, sys, time
import numpy as np
from directview import Client

data = np.random.default_rng(1).integers(0, 256, 200_000_000, dtype=np.uint8)
with Client(sys.argv[1]) as rc:
    rc.wait_for_engines(2, 30)
    ids = rc.ids
    print("ready", flush=True)
    sys.stdin.readline()
    small = [rc[ids[0]].apply_async(lambda n: n + 1, n) for n in range(100)]
    scattered = rc[:].scatter("part", data, block=False)
    small += [rc[ids[1]].apply_async(lambda n: n + 1, n) for n in range(100, 200)]
    scattered.get(60)
    print(json.dumps({
        "small": [result.get(60) for result in small] == list(range(1, 201)),
        "sums": rc[:].pull("int(part.sum())", block=True) == [int(half.sum()) for half in np.split(data, 2)],
        "back": bool((rc[:].gather("part").get(60) == data).all()),
        "ids": rc.ids == ids,
    }))
"""


@pytest.mark.parametrize(
    ("whose", "how"),
    [
        ("engines", "down"),
        pytest.param("client", "down", marks=pytest.mark.slow),
        pytest.param("engines", "lost", marks=pytest.mark.slow),
        pytest.param("client", "lost", marks=pytest.mark.slow),
    ],
)
def test_a_cable_is_pulled_in_the_middle_of_a_scatter(net: Network, whose: str, how: str) -> None:
    """For five seconds, of the engines' host or the client's: everything arrives, once and right."""
    before = net.sent("client")
    client = net.start("client", "-c", SCATTER, net.copy("client", "client"))
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    client.stdin.write("go\n")
    client.stdin.flush()
    until(lambda: net.sent("client") - before > 60_000_000, "a third of the data")
    assert net.sent("client") - before < 190_000_000, "too late to be in the middle"
    net.pull(whose, how)
    found = json.loads(client.stdout.readline())
    assert found == {"small": True, "sums": True, "back": True, "ids": True}
    assert client.wait(DEADLINE) == 0


REFUSED = """\
import json, sys, time
from directview import Client, DirectViewError

for path in sys.argv[1:]:
    began = time.monotonic()
    try:
        Client(path, timeout=10).ids
        print(json.dumps(["let in", 0.0]))
    except DirectViewError as error:
        print(json.dumps([str(error), time.monotonic() - began]))
"""


KEYLESS = 5
WITHOUT_KEYS = r"refused a connection: (10\.203\.2\.2|somebody .* where) (came|.* it came) without our keys"
"""A client without keys sees first that this is the wrong door, and may be gone before anybody looks where
it came from: but that it came, and what was wrong with it, the controller always sees."""


def test_who_has_not_the_right_key_is_refused(net: Network) -> None:
    """At once, each with its reason in the controller's log: wrong, old, none, or another role's."""
    log = profile_folder("net") / "controller.log"
    wrong, old = new_keys(), json.loads((profile_folder("net") / "client.json").read_text())
    files = [
        net.copy("client", "client", public=wrong.public, secret=wrong.secret),
        net.copy("client", "client"),
        net.copy("client", "client", public=None, secret=None, server_public=None),
    ]
    rotated = net.start("controller", "-m", "directview", "keys", "--profile", "net", "--rotate")
    assert "no restart is needed" in rotated.communicate(timeout=DEADLINE)[0]
    files += [files[2]] * (KEYLESS - 1)
    files += [net.copy("client", "engine", role="client"), net.copy("client", "client")]
    said, _ = net.start("client", "-c", REFUSED, *files).communicate(timeout=DEADLINE)
    answers = [json.loads(line) for line in said.splitlines()]
    expected = (
        ["refuses this key"] * 2 + ["security mechanism"] * KEYLESS + ["client connection file", "let in"]
    )
    for (text, seconds), words in zip(answers, expected, strict=True):
        assert words in text
        assert seconds < 5, f"{words}: {seconds:.2f} s"  # 0.05 s on an idle machine
    assert statistics.median([seconds for _, seconds in answers]) < 1
    reasons = until(
        lambda: re.search(WITHOUT_KEYS, said := log.read_text()) and said, "the reason for who has no keys"
    )
    assert f"10.203.2.2 has an unknown key ({fingerprint(wrong.public)})" in reasons
    assert f"10.203.2.2 has a key that was replaced ({fingerprint(old['public'])})" in reasons
    assert "expelled a peer at 10.203.2.2: the key presented is for role 'engine', not 'client'" in reasons


def test_a_clients_key_makes_no_engine_over_the_network(net: Network) -> None:
    log = profile_folder("net") / "controller.log"
    options = EngineOptions(
        connection=net.copy("engines", "client", role="engine"), uuid=secrets.token_hex(16)
    )
    process = net.start("engines", "-m", "directview.engine", options.to_json(), stderr=subprocess.PIPE)
    _, complaints = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "the key presented is for role 'client'" in complaints
    assert "the key presented is for role 'client', not 'engine'" in log.read_text()
