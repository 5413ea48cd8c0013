"""Connection files, and the folders that they and everything else of a cluster lie in."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from directview import connection, folders
from directview.connection import (
    ConnectionFileError,
    ConnectionFileNotFound,
    ConnectionInfo,
    choose_address,
    find,
    is_alive,
    load,
    new_cluster_id,
)
from directview.errors import ConnectionRejected, ControllerUnreachable
from directview.folders import FolderError, ProfileInUse, ProfileLock


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets, which a test's own is not."""
    with tempfile.TemporaryDirectory(prefix="dv", dir="/tmp") as found:
        yield Path(found)


@pytest.fixture(autouse=True)
def own_folders(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State and runtime folders that belong to the test."""
    (short / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / "run"))


def info(**changes: Any) -> ConnectionInfo:
    fields: dict[str, Any] = {
        "cluster_id": "0123456789ab",
        "role": "client",
        "pid": 1234,
        "hostname": "here",
        "created": 1.5,
        "ipc": "ipc:///tmp/nobody.sock",
    }
    return ConnectionInfo(**{**fields, **changes})


def listening(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.bind(str(path))
    found.listen()
    return found


# --- files -------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = info(profile="mpi", tcp="tcp://10.0.0.1:5555", server_public="s", public="p", secret="k")
    path = written.write(tmp_path)
    assert path == tmp_path / "client.json"
    found = load(path)
    assert found == written
    assert found.source == str(path)
    assert "k" not in repr(found).split("'")


def test_a_folder_means_the_client_file_in_it(tmp_path: Path) -> None:
    info().write(tmp_path)
    assert load(tmp_path) == info()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = info().write(tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["client.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_file_that_others_can_reach_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = info().write(tmp_path)
    path.chmod(mode)
    with pytest.raises(ConnectionFileError, match=f"chmod 600 {path}"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFileNotFound, match=str(tmp_path / "nowhere.json")) as caught:
        load(tmp_path / "nowhere.json")
    assert isinstance(caught.value, FileNotFoundError)
    assert "directview list" in str(caught.value)


def test_a_fifo_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConnectionFileError, match="is not a file"):
        load(tmp_path / "fifo")


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "expected a map of fields, got list"),
        (b"{}", "has no field 'version'"),
        (b" " * 70_000, "larger than"),
    ],
)
def test_what_is_no_connection_file_is_said_so(tmp_path: Path, contents: bytes, text: str) -> None:
    path = tmp_path / "client.json"
    path.write_bytes(contents)
    path.chmod(0o600)
    with pytest.raises(ConnectionFileError, match=text) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("field", ["cluster_id", "role", "pid", "hostname", "created", "protocol"])
def test_a_missing_field_is_named(field: str) -> None:
    contents = info().to_dict()
    del contents[field]
    with pytest.raises(ConnectionFileError, match=f"no field '{field}'"):
        ConnectionInfo.from_dict(contents)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"pid": "12"}, "'pid' must be a whole number, not str"),
        ({"pid": True}, "'pid' must be a whole number, not bool"),
        ({"cluster_id": 5}, "'cluster_id' must be text, not int"),
        ({"created": "now"}, "'created' must be a number, not str"),
        ({"role": "chef"}, "role must be client or engine"),
        ({"ipc": None}, "names no address"),
        ({"ipc": "/tmp/x"}, "ipc must start with ipc://"),
        ({"tcp": "udp://x"}, "tcp must start with tcp://"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConnectionFileError, match=text):
        ConnectionInfo.from_dict({**info().to_dict(), **changes})


@pytest.mark.parametrize("field", ["version", "protocol"])
def test_another_version_is_rejected_whatever_else_is_in_the_file(field: str) -> None:
    with pytest.raises(ConnectionRejected, match="version 99"):
        ConnectionInfo.from_dict({field: 99})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_plain_data_is_read_or_refused_clearly(contents: Any) -> None:
    with pytest.raises((ConnectionFileError, ConnectionRejected)):
        ConnectionInfo.from_dict(contents)


@given(st.sampled_from(sorted(info().to_dict())), st.none() | st.integers() | st.text() | st.binary())
def test_a_file_with_one_field_changed_is_read_or_refused_clearly(field: str, value: Any) -> None:
    try:
        found = ConnectionInfo.from_dict({**info().to_dict(), field: value})
    except (ConnectionFileError, ConnectionRejected):
        return
    assert ConnectionInfo.from_dict(found.to_dict()) == found


# --- finding -----------------------------------------------------------------------------------


def test_a_live_cluster_is_found_by_profile_id_and_path() -> None:
    folder = folders.profile_folder("mpi", create=True)
    path = folders.socket_path("0123456789ab")
    written = info(profile="mpi", ipc=f"ipc://{path}").write(folder)
    with listening(path):
        assert find("mpi").profile == "mpi"
        assert find(cluster_id="0123").source == str(written)
        assert find(path=written) == find(path=folder)
        assert is_alive(find("mpi"))


def test_a_file_for_the_other_role_is_refused_with_the_right_ones_name(tmp_path: Path) -> None:
    for role in ("client", "engine"):
        info(role=role).write(tmp_path)
    with pytest.raises(ConnectionFileError, match=r"client\.json is a file for clients.*the engine\.json"):
        find(path=tmp_path / "client.json", role="engine")
    with pytest.raises(ControllerUnreachable, match=r"engine\.json"):
        find(path=tmp_path, role="engine")


def test_a_relative_path_stays_right_when_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = info().write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load("client.json").source == str(path)


def test_a_dead_controller_is_said_so_with_file_and_address() -> None:
    folder = folders.profile_folder("mpi", create=True)
    path = folders.socket_path("0123456789ab")
    written = info(profile="mpi", ipc=f"ipc://{path}").write(folder)
    listening(path).close()  # its socket file stays behind, as after kill -9
    with pytest.raises(ControllerUnreachable, match="nobody listens") as caught:
        find("mpi")
    text = str(caught.value)
    assert str(written) in text
    assert str(path) in text
    assert "directview start -n 4 --profile mpi" in text


def test_a_missing_profile_is_named_with_the_way_to_start_it() -> None:
    with pytest.raises(ConnectionFileNotFound, match=r"profile 'a b'.*--profile 'a b'"):
        find("a b")
    with pytest.raises(ConnectionFileNotFound, match=r"profile 'default'.*`directview start -n 4`"):
        find()


def test_an_unknown_or_ambiguous_id_is_an_error() -> None:
    for name in ("one", "two"):
        info(cluster_id=f"77{name}").write(folders.profile_folder(name, create=True))
    with pytest.raises(ConnectionFileNotFound, match="'88'"):
        find(cluster_id="88")
    with pytest.raises(ConnectionFileError, match="2 clusters"):
        find(cluster_id="77")
    with pytest.raises(ConnectionFileNotFound):
        find(cluster_id="")


def test_a_timeout_waits_for_file_and_controller_but_not_for_an_explicit_path(tmp_path: Path) -> None:
    path = folders.socket_path("0123456789ab")
    held: list[socket.socket] = []

    def appear() -> None:
        info(profile="late", ipc=f"ipc://{path}").write(folders.profile_folder("late", create=True))
        held.append(listening(path))

    timer = threading.Timer(0.2, appear)
    timer.start()
    try:
        assert find("late", timeout=60).profile == "late"
    finally:
        timer.join()
        for sock in held:
            sock.close()
    with pytest.raises(ConnectionFileNotFound):
        find(path=tmp_path / "never.json", timeout=1000)  # and not after that


def test_the_first_address_where_somebody_listens_is_chosen(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        tcp = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        both = info(ipc=f"ipc://{tmp_path}/s", tcp=tcp)
        assert choose_address(both) == tcp
        with listening(tmp_path / "s"):
            assert choose_address(both) == both.ipc
    assert choose_address(both) is None
    for wrong in ("tcp://nonsense", "tcp://127.0.0.1:99999999", "tcp://:"):
        assert choose_address(info(ipc=None, tcp=wrong)) is None


def test_cluster_ids_differ() -> None:
    assert len({new_cluster_id() for _ in range(1000)}) == 1000


# --- folders -----------------------------------------------------------------------------------

NAMES = st.text(min_size=1, max_size=300).filter(lambda name: "\0" not in name and name.isprintable())


@given(NAMES, NAMES)
def test_every_profile_name_is_one_folder_of_its_own(first: str, second: str) -> None:
    base = folders.state_folder() / "profiles"
    one, two = folders.profile_folder(first), folders.profile_folder(second)
    assert one.parent == base
    assert one.name not in (".", "..")
    assert len(os.fsencode(one.name)) <= 255
    assert (one == two) == (first == second)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_impossible_profile_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't be the name of a profile"):
        folders.profile_folder(name)


def test_dots_and_slashes_do_not_lead_elsewhere() -> None:
    for name in ("..", ".", "../../etc", "/etc", ".hidden"):
        folder = folders.profile_folder(name, create=True)
        assert folder.parent == folders.state_folder() / "profiles"
        assert folder.is_dir()


def test_folders_are_for_their_owner_alone() -> None:
    old = os.umask(0)
    try:
        made = [
            folders.profile_folder("p", create=True),
            folders.private_folder("0123", create=True),
            folders.runtime_folder(),
            folders.socket_path("0123").parent,
        ]
    finally:
        os.umask(old)
    for folder in made:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_in_is_refused_one_that_they_may_read_is_closed() -> None:
    folder = folders.profile_folder("p", create=True)
    folder.chmod(0o755)
    folders.profile_folder("p", create=True)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(FolderError, match=f"chmod 700 {folder}"):
        folders.profile_folder("p", create=True)


def test_a_file_in_a_folders_place_is_named() -> None:
    state = folders.state_folder()
    (state / "profiles").write_text("")
    with pytest.raises(FolderError, match="profiles is not a folder"):
        folders.profile_folder("p", create=True)


@pytest.mark.parametrize("depth", [0, 200])
def test_socket_paths_are_short_whatever_the_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, depth: int
) -> None:
    deep = tmp_path / ("d" * depth) if depth else tmp_path
    deep.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = folders.socket_path("x" * 500)
    assert len(os.fsencode(path)) <= 100
    listening(path).close()
    path.unlink()


def test_without_a_runtime_folder_there_is_one_under_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, short: Path
) -> None:
    assert folders.runtime_folder() == short / "run" / "directview"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / "missing"))
    monkeypatch.setattr("tempfile.tempdir", str(short))
    assert folders.runtime_folder() == short / f"directview-{os.geteuid()}"


def test_two_sockets_of_one_cluster_differ() -> None:
    assert folders.socket_path("a") != folders.socket_path("a", "control") != folders.socket_path("b")


# --- lock --------------------------------------------------------------------------------------


def test_a_second_lock_names_the_first_ones_process_and_the_remedy(tmp_path: Path) -> None:
    text = rf"'mpi'.*process {os.getpid()}.*stop --profile mpi"
    with ProfileLock(tmp_path, "mpi"), pytest.raises(ProfileInUse, match=text):
        ProfileLock(tmp_path, "mpi").acquire()
    with ProfileLock(tmp_path, "mpi"):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from directview.folders import ProfileLock\n"
        f"lock = ProfileLock(Path({str(tmp_path)!r}), 'p'); lock.acquire(); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(ProfileInUse, match=f"process {holder.pid}"):
                ProfileLock(tmp_path, "p").acquire()
        finally:
            holder.kill()
        holder.wait()
    with ProfileLock(tmp_path, "p"):
        pass


def test_a_lock_on_a_removed_folder_is_worth_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    first = ProfileLock(folder, "p")
    first.acquire()
    folders.remove_folder(folder)
    with pytest.raises(FileNotFoundError):
        ProfileLock(folder, "p").acquire()
    folder.mkdir()
    with ProfileLock(folder, "p"):
        pass
    first.release()
    first.release()


def test_a_lock_is_not_for_links(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        ProfileLock(tmp_path, "p").acquire()
    assert not (tmp_path / "elsewhere").exists()


# --- sweeping ----------------------------------------------------------------------------------


def test_what_killed_clusters_left_is_swept_and_nothing_else() -> None:
    young = folders.private_folder("young", create=True)
    dead = folders.private_folder("dead", create=True)
    alive = folders.private_folder("alive", create=True)
    named = folders.profile_folder("named", create=True)
    left = [folders.socket_path("dead"), folders.socket_path("dead", "control")]
    for path in left:
        listening(path).close()
    elsewhere = young.parent.parent / "elsewhere"
    elsewhere.write_text("")
    (dead / "supervisor.json").write_text(json.dumps({"control": str(left[1])}))
    lock = ProfileLock(alive, "alive")
    lock.acquire()
    an_hour_ago = time.time() - 3600
    for folder in (dead, alive, named):
        os.utime(folder, (an_hour_ago, an_hour_ago))
    folders.sweep()
    assert [young.exists(), dead.exists(), alive.exists(), named.exists()] == [True, False, True, True]
    assert not any(path.exists() for path in left)
    assert elsewhere.exists()
    lock.release()


def test_a_swept_folders_supervisor_file_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    dead = folders.private_folder("dead", create=True)
    precious = tmp_path / "precious"
    precious.write_text("")
    (dead / "supervisor.json").write_text(json.dumps({"control": str(precious)}))
    os.utime(dead, (0, 0))
    folders.sweep()
    assert not dead.exists()
    assert precious.exists()


def test_folders_are_listed_with_their_profiles() -> None:
    named = folders.profile_folder("a/b", create=True)
    private = folders.private_folder("0123", create=True)
    assert list(folders.cluster_folders()) == [("a/b", named), (None, private)]
    assert connection.FILE_VERSION == 1
