"""A supervisor whose controller, engines and uplink are small stand-ins: run as a script, with its options.

The engines do what the file ``behave`` in the folder says and write what they find into their log. The uplink
is a pair of datagram sockets in the folder: ``down`` is where messages for the supervisor come in, ``up``
where those for the controller go.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from directview.supervisor.__main__ import supervise
from directview.supervisor.options import SupervisorOptions
from directview.wire.messages import Message, decode, encode


def say(found: dict[str, Any]) -> None:
    """Into the log."""
    os.write(1, json.dumps(found).encode() + b"\n")


def controller(options: dict[str, Any]) -> int:
    folder = Path(options["folder"])
    behave = (folder / "behave").read_text()
    if behave == "refuse":
        os.write(options["ready_fd"], b'{"error": "the port is taken: choose another"}\n')
        return 1
    if behave == "crash":
        sys.stderr.write("ImportError: no module named flux\n")
        return 3
    (folder / "controller.pid").write_text(str(os.getpid()))
    (folder / "engine.json").write_text("{}")
    (folder / "client.json").write_text("{}")
    if behave == "deaf controller":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    said = {"client": str(folder / "client.json"), "engine": str(folder / "engine.json")}
    os.write(options["ready_fd"], json.dumps(said).encode() + b"\n")
    os.close(options["ready_fd"])
    while True:
        signal.pause()


def engine(options: dict[str, Any]) -> int:
    import numpy.random  # reseeded after the fork only if it was there before: see `imports` below

    behave = (Path(options["folder"]) / "behave").read_text()
    found = {
        "uuid": options["uuid"],
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "random": random.random(),
        "numpy": float(numpy.random.random()),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "interrupt_fd": options["interrupt_fd"],
        "sigterm": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "sigint": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "wakeup": signal.set_wakeup_fd(-1),
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "env": os.environ.get("DIRECTVIEW_TEST"),
    }
    interrupts: list[str] = []

    def interrupted(signum: int, frame: object) -> None:
        try:
            interrupts.append(os.read(options["interrupt_fd"], 24).hex())
        except BlockingIOError:
            return
        say({"interrupted": interrupts})

    signal.signal(signal.SIGRTMIN, interrupted)
    if behave == "exit 3":
        return 3
    if behave == "deaf engine":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behave == "children":
        # One in the engine's group, one in a group of its own, as a shell with job control does.
        inside = subprocess.Popen(["sleep", "600"])
        beside = subprocess.Popen(["sleep", "600"], process_group=0)
        found["children"] = [inside.pid, beside.pid]
    say(found)
    while True:
        time.sleep(600)


class Datagrams:
    """An uplink that is always there."""

    def __init__(self, options: SupervisorOptions, uuid: bytes) -> None:
        self._folder = Path(options.folder)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def start(
        self, connection: str, on_message: Callable[[Message], None], on_lost: Callable[[str], None]
    ) -> None:
        def readable() -> None:
            on_message(decode(self._socket.recv(65_536)))

        self._socket.bind(str(self._folder / "down"))
        asyncio.get_running_loop().add_reader(self._socket, readable)

    def send(self, message: Message) -> None:
        try:
            self._socket.sendto(encode(message), str(self._folder / "up"))
        except OSError:
            pass

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


if __name__ == "__main__":
    with open(int(sys.argv[1]), encoding="utf-8") as file:
        options = SupervisorOptions.from_json(file.read())
    sys.exit(
        supervise(
            options,
            run_controller=controller,
            run_engine=engine,
            make_uplink=Datagrams,
            imports=((), ("numpy", "numpy.random")),
        )
    )
