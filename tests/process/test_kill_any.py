"""kill -9 of any process of a cluster, and of any two, in each phase of its life: nothing stays behind.

The cluster belongs to a program of its own here, since that may be the one that is killed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil
import pytest
from click.testing import CliRunner

import directview
from directview import Cluster, DirectViewError, folders
from directview.cli import main
from directview.testing.leaks import no_leaks
from directview.testing.polling import until

pytestmark = pytest.mark.process

DEADLINE: Final = 30.0
ROLES: Final = ("launcher", "supervisor", "controller", "fork server", "engine")
PHASES: Final = ("starting", "idle", "loaded", "stopping")
PAIRS: Final = (*itertools.combinations(ROLES, 2), ("engine", "engine"))

PROGRAM: Final = """\
import os, sys, time
import numpy
from directview import Cluster, DirectViewError

def say(word):
    print(word, flush=True)

say("starting")
try:
    with Cluster(n=2) as rc:
        say("idle")
        if sys.argv[1] == "loaded":
            array = numpy.zeros(1 << 20)
            rc[:].apply_async(len, array).get(20)
            results = [rc[:].apply_async(time.sleep, 60), rc[:].apply_async(len, array)]
            results.append(rc[:].scatter_async("x", array))
            say("loaded")
        sys.stdin.readline()
        say("stopping")
except DirectViewError as error:
    say(f"failed: {error}")
"""


def family(launcher: psutil.Process) -> dict[str, list[psutil.Process]]:
    """The processes of a launcher's cluster that there are, by what they do."""
    found: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}
    found["launcher"] = [launcher]
    try:
        found["supervisor"] = launcher.children()[:1]
        for supervisor in found["supervisor"]:
            # It forks them in this order.
            children = sorted(supervisor.children(), key=lambda child: child.pid)
            found["controller"], found["fork server"] = children[:1], children[1:2]
            for server in found["fork server"]:
                found["engine"] = server.children()
    except psutil.NoSuchProcess:
        pass
    return found


def victims(launcher: psutil.Process, roles: tuple[str, ...]) -> list[psutil.Process] | None:
    """One process for each role, or None as long as they aren't all there."""
    there = family(launcher)
    wanted = {role: roles.count(role) for role in roles}
    if any([len(there[role]) < number for role, number in wanted.items()]):
        return None
    return [process for role, number in wanted.items() for process in there[role][:number]]


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass  # It went with the one before, or was about to stop.


def live_and_die(phase: str, roles: tuple[str, ...]) -> None:
    """Have a program start a cluster, kill these in that phase, and let the program come to its end."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, phase],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(directview.__file__).parents[1])},
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        launcher = psutil.Process(program.pid)
        try:
            assert program.stdout.readline() == "starting\n"
            if phase != "starting":
                assert program.stdout.readline() == "idle\n"
            if phase == "loaded":
                assert program.stdout.readline() == "loaded\n"
            chosen = until(lambda: victims(launcher, roles), f"{roles} to be there")
            if phase == "stopping":
                program.stdin.write("\n")
                program.stdin.flush()
                assert program.stdout.readline() == "stopping\n"
            kill(chosen)
            try:
                program.communicate("\n", timeout=DEADLINE)
            except BrokenPipeError:
                program.wait(DEADLINE)
        finally:
            program.kill()
    if phase == "starting" and "launcher" in roles:
        # Between making the folder and having started a process, nobody is there to take it away: the next
        # start does.
        until(swept, "the end")


def swept() -> bool:
    folders.sweep()
    return not [folder for profile, folder in folders.cluster_folders() if profile is None]


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a start counts as dead at once, not only after a minute."""
    monkeypatch.setattr(folders, "_SWEEP_AGE", 0.0)


SAMPLE: Final = [
    ("starting", ("supervisor",)),
    ("starting", ("launcher", "fork server")),
    ("idle", ("supervisor", "fork server")),
    ("loaded", ("controller", "engine")),
    ("loaded", ("launcher", "supervisor")),
    ("stopping", ("supervisor", "controller")),
]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("phase", "roles"), SAMPLE)
def test_nothing_stays_behind(phase: str, roles: tuple[str, ...]) -> None:
    live_and_die(phase, roles)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("roles", [*[(role,) for role in ROLES], *PAIRS], ids=" and ".join)
@pytest.mark.parametrize("phase", PHASES)
def test_nothing_stays_behind_whoever_is_killed(phase: str, roles: tuple[str, ...]) -> None:
    live_and_die(phase, roles)


# --- again and again ---------------------------------------------------------------------------


def cycle(chance: random.Random, mark: tuple[str, str], run: Path) -> str:
    """Start, load, kill somebody, stop; returns who it was. Every call must have ended, and nothing stays."""
    with no_leaks(run, mark, patience=DEADLINE):
        cluster = Cluster(n=2)
        rc = cluster.start_and_connect_sync()
        try:
            view = rc.load_balanced_view()
            results = [view.apply_async(pow, number, 2) for number in range(50)]
            results += [rc[:].apply_async(sum, range(1000)) for _ in range(10)]
            assert cluster._supervisor is not None
            supervisor = psutil.Process(cluster._supervisor.pid)
            children = sorted(supervisor.children(), key=lambda child: child.pid)
            who = chance.choice(["supervisor", "controller", "fork server", "engine"])
            process = {
                "supervisor": supervisor,
                "controller": children[0],
                "fork server": children[1],
                "engine": chance.choice(children[1].children()),
            }[who]
            process.send_signal(signal.SIGKILL)
            for number, result in enumerate(results):
                try:
                    value = result.get(DEADLINE)
                except TimeoutError:
                    raise
                except DirectViewError:
                    continue
                assert value == (number**2 if number < 50 else [499_500, 499_500])
        finally:
            rc.close()
            cluster.stop_cluster_sync()
    return who


@pytest.mark.slow
def test_cycles_of_start_load_kill_and_stop_leave_nothing_and_lose_nothing(own_folders: Path) -> None:
    """200 of them; DIRECTVIEW_CYCLES says otherwise."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    mark = ("DIRECTVIEW_TEST_RUN", os.environ["DIRECTVIEW_TEST_RUN"])
    killed: dict[str, int] = {}
    for number in range(int(os.environ.get("DIRECTVIEW_CYCLES", "200"))):
        try:
            who = cycle(chance, mark, own_folders / "run")
        except BaseException as error:
            error.add_note(f"in cycle {number} of seed {seed}, after {json.dumps(killed)}")
            raise
        killed[who] = killed.get(who, 0) + 1
    assert sum(killed.values()) > 0


# --- side by side ------------------------------------------------------------------------------

AS_NOBODY: Final = """\
import json, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from directview import Cluster
from directview.cli import main
with Cluster(n=1) as rc, Cluster(n=1, profile="same") as named:
    print(json.dumps([rc[0].apply_sync(os.getuid), named[0].apply_sync(os.getuid)]), flush=True)
    sys.stdin.readline()
    main(["clean"], standalone_mode=False)
    print(json.dumps([rc[0].apply_sync(abs, -1), named[0].apply_sync(abs, -2)]), flush=True)
"""


def for_nobody(program: str) -> list[str]:
    """The command that runs `program` by this Python so that another user can read what it imports.

    Where a folder on the way is closed to others (``/root``, say), it gets a mount namespace of its own, with
    nothing in that folder but what is needed. `program` begins as root.
    """
    places = {sys.base_prefix, sys.prefix, str(Path(directview.__file__).resolve().parents[1])}
    needed = sorted({Path(place).resolve() for place in places})
    closed = {}
    for place in needed:
        ways = [way for way in reversed((place, *place.parents)) if not way.stat().st_mode & 0o001]
        if ways:
            closed[place] = ways[0]
    command = [sys.executable, "-c", program]
    if not closed:
        return command
    steps = ["set -e", "kept=$(mktemp -d)", "mount -t tmpfs none $kept"]
    for number, place in enumerate(closed):
        steps += [f"mkdir $kept/{number}", f"mount --bind {shlex.quote(str(place))} $kept/{number}"]
    steps += [
        f"mount -t tmpfs -o mode=755 none {shlex.quote(str(way))}" for way in sorted(set(closed.values()))
    ]
    for number, place in enumerate(closed):
        where = shlex.quote(str(place))
        steps += [f"mkdir -p {where}", f"mount --bind $kept/{number} {where}"]
    steps += ["umount -R $kept", "rmdir $kept", 'exec "$@"']
    return ["unshare", "--mount", "sh", "-c", "\n".join(steps), "sh", *command]


BECOME_NOBODY: Final = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); "


def why_not_as_nobody() -> str:
    """Why another user can't start clusters here, or nothing."""
    if os.geteuid() != 0:
        return "only root can become another user"
    tried = subprocess.run(
        for_nobody(BECOME_NOBODY + "import directview.supervisor.__main__"),
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(Path(directview.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    return f"another user can't read this Python: {tried.stderr[-300:]}" if tried.returncode else ""


@pytest.mark.usefixtures("nothing_left")
def test_clusters_of_two_users_live_side_by_side(own_folders: Path) -> None:
    """With the same names, in the same temporary folder; and each cleans up after itself alone."""
    reason = why_not_as_nobody()
    if reason:
        pytest.skip(reason)
    own_folders.chmod(0o711)
    theirs = own_folders / "nobody"
    theirs.mkdir()
    os.chown(theirs, 65_534, 65_534)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment.update(
        HOME=str(theirs), TMPDIR=str(theirs), PYTHONPATH=str(Path(directview.__file__).parents[1])
    )
    with Cluster(n=1) as rc, Cluster(n=1, profile="same") as named:
        with subprocess.Popen(
            for_nobody(AS_NOBODY),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment,
        ) as program:
            try:
                assert program.stdout is not None
                assert json.loads(program.stdout.readline()) == [65_534, 65_534]
                found = CliRunner().invoke(main, ["clean"])
                assert found.output == "nothing to remove\n"
                said, _ = program.communicate("\n", timeout=DEADLINE)
                assert said == "nothing to remove\n[1, 2]\n"
                assert program.returncode == 0
            finally:
                program.kill()
        assert [rc[0].apply_sync(os.getuid), named[0].apply_sync(os.getuid)] == [0, 0]
    assert not list(theirs.rglob("*.sock"))
