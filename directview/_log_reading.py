"""Logs of several processes, merged by time, for people: what ``directview logs`` shows.

Beside the lines of `directview._log_writing` there is what engines have written to the descriptors 1 and 2
(``engine-<uuid>.log``: libraries in C, faults of the interpreter). It has no times, and stands where its file
was last written.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from directview.connection import ConnectionFileNotFound, load
from directview.errors import DirectViewError
from directview.folders import DEFAULT_PROFILE, cluster_folders, profile_folder

__all__ = ["Follower", "Line", "Wanted", "log_folders", "merged", "shown"]

_ROTATED: Final = re.compile(r"\A(.+\.(?:jsonl|log))(?:\.(\d+))?\Z")
_ALREADY: Final = re.compile(r"\A(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} |  \| |directview engine: ended: )")
"""What stands in a ``.jsonl`` as well."""
_OUTPUT: Final = "output"
_READ_AT_ONCE: Final = 1 << 20
_RAW_BYTES: Final = 1 << 20
"""Of a file without times, the end is shown."""


class Line(NamedTuple):
    """One thing that was logged."""

    time: float
    process: str
    level: str
    text: str
    trace: str = ""


class Wanted(NamedTuple):
    """Which lines to show."""

    process: str = ""
    """``engine.3``, ``engine`` for all of them, ``controller``; empty: all."""
    level: int = logging.INFO

    def takes(self, line: Line) -> bool:
        """Whether it is one of them."""
        number = logging.getLevelNamesMapping().get(line.level.upper(), logging.INFO)
        mine = not self.process or line.process == self.process or line.process.startswith(f"{self.process}.")
        return mine and number >= self.level


def log_folders(
    profile: str | None = None, cluster_id: str | None = None, path: str | None = None
) -> list[Path]:
    """The folders in which a cluster's processes on this machine log, whether or not it still runs.

    Args:
        profile: its name.
        cluster_id: (the beginning of) its id.
        path: one of its connection files, or its folder.

    Raises:
        ConnectionFileNotFound: there are none.
    """
    known = dict.fromkeys(folder for _, folder in cluster_folders())
    if path is not None:
        first = Path(path).absolute()
        folders = [first if first.is_dir() else first.parent]
    elif cluster_id is not None:
        folders = [folder for folder in known if _id_in(folder).startswith(cluster_id)]
    else:
        folders = [profile_folder(DEFAULT_PROFILE if profile is None else profile)]
    ids = [id for id in map(_id_in, folders) if id]
    folders += [folder for folder in known if folder.name.startswith(tuple(f"{id}-engines-" for id in ids))]
    found = list(dict.fromkeys(folder for folder in folders if _families([folder])))
    if not found:
        asked = f"in {path}" if path else f"of cluster {cluster_id}" if cluster_id else f"in {folders[0]}"
        raise ConnectionFileNotFound(
            f"there are no logs {asked}: `directview list` shows the clusters of this machine; "
            "`directview logs --cluster-id ID` has the logs of one that has no name, as long as it lives"
        )
    return found


def _id_in(folder: Path) -> str:
    """The id of the cluster whose folder it is, or was."""
    try:
        return load(folder / "client.json").cluster_id
    except (DirectViewError, OSError):
        return folder.name if (folder.parent.name == "clusters") else ""


def _parsed(text: str) -> Line | None:
    """A line of a ``.jsonl``; None if it is torn."""
    try:
        found = json.loads(text)
        return Line(
            float(found["time"]),
            str(found["process"]),
            str(found["level"]),
            str(found["text"]),
            str(found.get("trace", "")),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _families(folders: Sequence[Path]) -> dict[Path, list[Path]]:
    """For each log, its files, oldest first."""
    found: dict[Path, list[tuple[int, Path]]] = {}
    for folder in folders:
        try:
            paths = list(folder.iterdir())
        except OSError:
            continue
        for path in paths:
            match = _ROTATED.match(path.name)
            if match:
                found.setdefault(folder / match[1], []).append((-int(match[2] or 0), path))
    return {base: [path for _, path in sorted(files)] for base, files in sorted(found.items())}


def _lines_of(paths: Sequence[Path]) -> Iterator[Line]:
    latest = 0.0
    for path in paths:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                for text in file:
                    line = _parsed(text)
                    if line is not None:
                        # A clock that was set back must not undo the order in which things happened.
                        latest = max(latest, line.time)
                        yield line._replace(time=latest) if line.time < latest else line
        except OSError:
            continue


def _raw_lines(path: Path, process: str) -> Iterator[Line]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _RAW_BYTES))
            when = os.fstat(file.fileno()).st_mtime
            texts = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return
    for text in texts[1:] if size > _RAW_BYTES else texts:
        if text.strip() and not _ALREADY.match(text):
            yield Line(when, process, _OUTPUT, text)


def _process_of(base: Path, families: dict[Path, list[Path]]) -> str:
    """The name of the process that writes ``x.log``: as the lines of ``x.jsonl`` have it last."""
    name = base.stem
    for path in families.get(base.with_suffix(".jsonl"), []):
        for line in deque(_lines_of([path]), maxlen=1):
            name = line.process
    return name


def merged(folders: Sequence[Path], wanted: Wanted, most: int = 0) -> Iterable[Line]:
    """All that the processes of a cluster have logged, in order of time.

    Args:
        folders: the cluster's.
        wanted: which lines.
        most: the last so many; 0: all.
    """
    families = _families(folders)
    streams: list[Iterator[Line]] = []
    for base, paths in families.items():
        if base.suffix == ".jsonl":
            streams.append(_lines_of(paths))
        else:
            streams.extend(_raw_lines(path, _process_of(base, families)) for path in paths)
    found = (line for line in heapq.merge(*streams, key=lambda line: line.time) if wanted.takes(line))
    return deque(found, maxlen=most) if most else found


def shown(line: Line, *, now: float | None = None) -> str:
    """A line as people read it, in their own time; a day's date only where it isn't today's."""
    today = time.localtime(now)[:3]
    local = time.localtime(line.time)
    date = "" if local[:3] == today else time.strftime("%Y-%m-%d ", local)
    clock = f"{date}{time.strftime('%H:%M:%S', local)}.{int(line.time % 1 * 1000):03d}"
    level = "" if line.level in ("info", _OUTPUT) else f"{line.level}: "
    text = f"{clock} {line.process:<11} {'| ' if line.level == _OUTPUT else ''}{level}{line.text}"
    return "\n".join([text, *[f"    {row}" for row in line.trace.splitlines()]])


class Follower:
    """What is logged from now on. Ask it for `news` again and again.

    Args:
        folders: says which folders there are: engines that join later may have one of their own.
        wanted: which lines.
    """

    def __init__(self, folders: Callable[[], Sequence[Path]], wanted: Wanted) -> None:
        self._folders = folders
        self._wanted = wanted
        self._places: dict[Path, tuple[int, int]] = {}
        """Inode, and how much of it has been read."""
        self._names: dict[Path, str] = {}
        self.news(skip=True)

    def news(self, *, skip: bool = False) -> list[Line]:
        """What has come since the last time; `skip`: only take note of it."""
        found: list[Line] = []
        families = _families(self._folders())
        for base in families:
            for text in self._new_texts(base, skip):
                if base.suffix == ".jsonl":
                    line = _parsed(text)
                    if line is not None:
                        self._names[base.with_suffix(".log")] = line.process
                        found.append(line)
                elif text.strip() and not _ALREADY.match(text):
                    if base not in self._names:
                        self._names[base] = _process_of(base, families)
                    found.append(Line(time.time(), self._names[base], _OUTPUT, text))
        return sorted([line for line in found if self._wanted.takes(line)], key=lambda line: line.time)

    def _new_texts(self, path: Path, skip: bool) -> list[str]:
        texts: list[str] = []
        try:
            with path.open("rb") as file:
                state = os.fstat(file.fileno())
                inode, place = self._places.get(path, (0, 0))
                if inode != state.st_ino or place > state.st_size:
                    if inode:  # It was rotated: the end of the old one first.
                        texts += self._rest(path.with_name(f"{path.name}.1"), inode, place)
                    place = 0
                if skip:
                    place = state.st_size
                file.seek(place)
                data = file.read(_READ_AT_ONCE)
        except OSError:
            return texts
        whole = data.rfind(b"\n") + 1
        self._places[path] = (state.st_ino, place + whole)
        return texts + data[:whole].decode("utf-8", "replace").splitlines()

    def _rest(self, path: Path, inode: int, place: int) -> list[str]:
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_ino != inode:
                    return []
                file.seek(place)
                return file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []
