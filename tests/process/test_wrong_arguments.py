"""Wrong arguments to every public method: the error names the argument, and what it should be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import directview as dv
from directview import Client, Cluster, CompositeError

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

TARGETS = "TypeError: targets: expected an engine id, a list of ids or a slice, got "
NO_ENGINE = "IndexError: there is no engine 99; there are [0, 1]"
JOBS = "TypeError: jobs: expected AsyncResults, Futures, msg_ids or indices into history, got 1.5"
MSG_ID = "ValueError: 'x' is not a msg_id: those look like '<client>_<number>_<engine>'"
SECONDS = "TypeError: timeout: expected seconds as a number, or None, got 'x'"
NO_FLAG = "TypeError: a view has no flag 'colour': targets, block, track, label, time_limit"
SIGNAL = "ValueError: 'NO' is no signal: give a number, or a name such as 'SIGTERM'"
DIST = "ValueError: unknown dist 'x': 'b' gives each engine one block, 'r' deals items out in turn"
NOT_DEFINED = "NameError: name 'half' is not defined on this engine"
WHEN = "ValueError: return_when is 'x'; it can be FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED"

TABLE = {
    # --- which engines
    "rc['0']": TARGETS + "'0'",
    "rc[None]": TARGETS + "None",
    "rc[0.5]": TARGETS + "0.5",
    "rc[{0: 1}]": TARGETS + "{0: 1}",
    "rc['all']": TARGETS + "'all'",
    "rc[99]": NO_ENGINE,
    "rc[[0, 0]]": "ValueError: targets: an engine is named twice in [0, 0]",
    "rc[[]]": "ValueError: targets: an empty list of engines",
    "rc[True]": "TypeError: an engine id is an int, not True",
    "rc.direct_view('every')": TARGETS + "'every'",
    "rc.direct_view(np.zeros(2))": "TypeError: an engine id is an int, not ",
    "rc.direct_view(0, colour=1)": NO_FLAG,
    "rc.direct_view(0, block='yes')": "TypeError: block: expected True or False, got 'yes'",
    "rc.direct_view(0, label=5)": "TypeError: label: expected text, got int 5",
    "rc.broadcast_view('x')": TARGETS + "'x'",
    "rc.activate(99)": NO_ENGINE,
    "rc.activate(0, 5)": "TypeError: suffix: expected text, got int 5",
    "rc.become_dask(99)": NO_ENGINE,
    # --- which calls
    "rc.get_result(1.5)": JOBS,
    "rc.get_result([1.5])": JOBS,
    "rc.get_result('x')": MSG_ID,
    "rc.get_result([])": "ValueError: get_result needs at least one msg_id, index or AsyncResult",
    "rc.get_result(10**6)": "IndexError: index 1000000 of a history of ",
    "rc.result_status(1.5)": JOBS,
    "rc.result_status('x')": MSG_ID,
    "rc.wait(1.5)": JOBS,
    "rc.wait(timeout='x')": SECONDS,
    "rc.abort(1.5)": JOBS,
    "rc.abort(targets=99)": NO_ENGINE,
    "rc.resubmit(1.5)": JOBS,
    "rc.resubmit('x')": MSG_ID,
    "rc.purge_results(1.5)": JOBS,
    "rc.purge_results('x')": "ValueError: 'x' is not a msg_id",
    "rc.purge_results(targets=99)": NO_ENGINE,
    "rc.purge_results(targets=1.5)": TARGETS + "1.5",
    "rc.purge_local_results(targets='x')": TARGETS + "'x'",
    "rc.purge_hub_results(1.5)": JOBS,
    "rc.purge_hub_results(targets=1.5)": TARGETS + "1.5",
    # --- the controller and the engines
    "rc.wait_for_engines('x')": "ValueError: n: expected a number of engines, got 'x'",
    "rc.wait_for_engines(-1)": "ValueError: n: expected a number of engines, got -1",
    "rc.wait_for_engines(1, timeout='x')": SECONDS,
    "rc.wait_for_engines(1, timout=3)": "TypeError: Client.wait_for_engines() got an unexpected keyword",
    "rc.queue_status(99)": NO_ENGINE,
    "rc.queue_status('x')": TARGETS + "'x'",
    "rc.db_query(5)": "ValueError: a query is a dict of fields and what they are to be, not 5",
    "rc.db_query({}, 5)": "TypeError: keys: expected a name or a list of names, got int 5",
    "rc.db_query({}, ['x'])": "ValueError: a record has no field 'x'; there is msg_id, client_uuid, ",
    "rc.clear('x')": TARGETS + "'x'",
    "rc.send_signal('NO')": SIGNAL,
    "rc.send_signal(1.5)": "ValueError: 1.5 is no signal",
    "rc.send_signal(None)": "ValueError: None is no signal",
    "rc.send_signal(15, targets='x')": TARGETS + "'x'",
    "rc.shutdown(99)": NO_ENGINE,
    "rc.kill(99)": NO_ENGINE,
    "rc.on_engine_left(5)": "TypeError: a callback is a function, not 5",
    "setattr(rc, 'block', 'yes')": "TypeError: block: expected True or False, got 'yes'",
    # --- views
    "setattr(v, 'targets', 'x')": TARGETS + "'x'",
    "setattr(v, 'targets', None)": TARGETS + "None",
    "setattr(v, 'block', 'maybe')": "TypeError: block: expected True or False, got 'maybe'",
    "setattr(v, 'label', 5)": "TypeError: label: expected text, got int 5",
    "v.set_flags(colour=1)": NO_FLAG,
    "v.temp_flags(colour=1).__enter__()": NO_FLAG,
    "v.options(colour=1)": "TypeError: DirectView.options() got an unexpected keyword argument 'colour'",
    "v.options(block='maybe')": "TypeError: block: expected True or False, got 'maybe'",
    "v.apply(5)": "TypeError: apply calls a function, and int 5 is none",
    "v.apply_async('f')": "TypeError: apply calls a function, and str 'f' is none",
    "v.apply_sync(None)": "TypeError: apply calls a function, and NoneType None is none",
    "v.execute('x', targets='y')": TARGETS + "'y'",
    "e.execute_sync(5)": "TypeError: execute takes source as a str, got int; use apply for a function",
    "e.execute_sync('1 +')": "SyntaxError: invalid syntax",
    "v.run('/nowhere.py')": "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere.py'",
    "v.push(5)": "TypeError: push takes a dict of names and objects, got int 5",
    "v.push('a')": "TypeError: push takes a dict of names and objects, got str 'a'",
    "v.push({5: 1})": "TypeError: a name must be a str, got int 5",
    "v.push({'a b': 1})": "ValueError: 'a b' is not a name that can be set on an engine",
    "v.push({'class': 1})": "ValueError: 'class' is not a name that can be set on an engine",
    "v.push({'a': 1}, targets='x')": TARGETS + "'x'",
    "v.__setitem__(5, 1)": "TypeError: a name must be a str, got int 5",
    "v.update(5)": "TypeError: push takes a dict of names and objects, got int 5",
    "v.pull(5)": "TypeError: pull: expected a name or a list of names, got int 5",
    "v[5]": "TypeError: pull: expected a name or a list of names, got int 5",
    "v.get({'a': 1})": "TypeError: pull: expected a name or a list of names, got dict",
    "e.pull_sync('a b')": "SyntaxError: invalid syntax (<pull a b>",
    "e.pull_sync(['number', 5])": "TypeError: a name to pull must be a str, got int 5",
    "rc[1].pull_sync('half')": NOT_DEFINED,
    "v.scatter(5, [1])": "TypeError: a name must be a str, got int 5",
    "v.scatter('a b', [1])": "ValueError: 'a b' is not a name that can be set on an engine",
    "v.scatter('a', 5)": "TypeError: can't cut a int into parts: it is not a sequence; push it instead",
    "v.scatter('a', [1], dist='x')": DIST,
    "v.scatter('a', {'x': 1})": "TypeError: a dict has no order of parts: use list(d.items()), or push it",
    "v.gather(5)": "TypeError: gather: a name is a str, got int 5",
    "v.gather('a', dist='x')": DIST,
    "v.map(5, [1])": "TypeError: map calls a function, and int 5 is none",
    "rc.load_balanced_view().map(5, [1])": "TypeError: map calls a function, and int 5 is none",
    "rc.load_balanced_view().apply(5)": "TypeError: apply calls a function, and int 5 is none",
    "rc.load_balanced_view().imap(5, [1])": "TypeError: imap calls a function, and int 5 is none",
    "v.imap(5, [1])": "TypeError: imap calls a function, and int 5 is none",
    "v.imap(abs, 5)": "TypeError: imap goes through sequences, and argument 1 after the function is int 5",
    "v.map(abs)": "TypeError: map needs at least one sequence beside the function",
    "v.map(abs, [1], 5)": "TypeError: map goes through sequences, and argument 2 after the function is int 5",
    "v.map(abs, [1], colour=2)": "TypeError: Calls.map() got an unexpected keyword argument 'colour'",
    "v.remote(colour=1)": NO_FLAG,
    "v.remote(block='x')": "TypeError: block: expected True or False, got 'x'",
    "v.remote()(5)": "TypeError: a remote function is made of a function, not of 5",
    "v.parallel(dist='x')": DIST,
    "v.parallel(colour=1)": NO_FLAG,
    "v.parallel()(min)([1, 2], [1])": "ValueError: min needs sequences of equal length: argument 1 has 2",
    "v.parallel()(min)(5)": "TypeError: argument 1 of min: can't cut a int into parts",
    "v.parallel()(min).map(5)": "TypeError: map goes through sequences, and argument 1 after the function",
    "v.activate(5)": "TypeError: suffix: expected text, got int 5",
    "v.get_result(99)": "IndexError: result 99 of a view that has made 0 calls",
    "v.wait(1.5)": JOBS,
    "v.abort(targets=99)": NO_ENGINE,
    "v.purge_results(1.5)": JOBS,
    "v.queue_status(99)": NO_ENGINE,
    "v.shutdown(99)": NO_ENGINE,
    "v.kill(99)": NO_ENGINE,
    "v.clear(99)": NO_ENGINE,
    # --- functions and what they need
    "dv.Reference(5)": "TypeError: a Reference is made from a name or expression as a str, not 5",
    "dv.Reference('a b')": "SyntaxError: invalid syntax (<Reference>",
    "dv.require(5)": "TypeError: require takes modules, their names, functions and classes; pass a int by",
    "dv.require('a b')": "ValueError: 'a b' is not the name of a module: 'a', 'a.b' or 'a.b as c'",
    "dv.depend(5)(abs)": "TypeError: a dependency needs functions, not int 5",
    "dv.interactive(5)": "TypeError: interactive is for functions, and int 5 is none",
    # --- connecting and starting
    "dv.Client(5)": "ConnectionFileError: the given contents is not a connection file: expected a map of",
    "dv.Client('/nowhere/client.json')": "ConnectionFileNotFound: there is no connection file /nowhere/c",
    "dv.Client(profile=5)": "TypeError: profile: expected text, got int 5",
    "dv.Client(profile='zzz', timeout='x')": SECONDS,
    "dv.Client(colour=1)": "TypeError: Client has no argument 'colour': there is url_or_file, profile,",
    "dv.Client(profil='x')": "TypeError: Client has no argument 'profil': did you mean 'profile'?",
    "dv.Cluster(n='4')": "ValueError: n: expected a number of engines, got '4'",
    "dv.Cluster(engines='mpi')": "ValueError: engines='mpi': a Cluster starts engines on this machine only",
    "dv.Cluster(colour=1)": "TypeError: Cluster() has no argument 'colour': there is n, profile, cluster_id,",
    "dv.Cluster(N=4)": "TypeError: Cluster() has no argument 'N': did you mean 'n'?",
    "dv.Cluster(engines=4)": "TypeError: engines: 'local' is all there is, got 4; their number is n: Clu",
    "dv.Cluster(ip=5)": "TypeError: ip: expected text, got int 5",
    "dv.Cluster(port=70000)": "ValueError: port: expected a number from 0 to 65535, got 70000",
    "dv.Cluster(env=5)": "TypeError: env: expected a dict of environment variables, got 5",
    "dv.Cluster(env={'A': 1})": "TypeError: env: names and values are text, got 'A': 1",
    "dv.Cluster(start_timeout='x')": "TypeError: start_timeout: expected seconds as a number, or None, got",
    "dv.Cluster().connection_file": "RuntimeError: <Cluster ",
    "dv.Cluster().stop_engines_sync()": "LaunchError: no supervisor of cluster ",
    "dv.Cluster.from_file('/nowhere')": "ConnectionFileNotFound: there is no connection file /nowhere",
    "cluster.start_engines_sync(0)": "ValueError: n: expected a number of engines, got 0",
    "cluster.stop_engine_sync(99)": "IndexError: there is no engine 99; there are [0, 1]",
    "cluster.stop_engines_sync(0)": "TypeError: engine_ids: expected a list of engine ids, got 0",
    "cluster.restart_engines_sync('x')": "TypeError: engine_ids: expected a list of engine ids, got 'x'",
    "cluster.signal_engine_sync(0, 'NO')": SIGNAL,
    "cluster.signal_engines_sync(999)": "ValueError: 999 is no signal",
    "cluster.start_cluster_sync()": "RuntimeError: <Cluster ",
    "cluster.connect_client_sync(timeout='x')": SECONDS,
    # --- results
    "ar.get('x')": SECONDS,
    "ar.get(return_when='x')": WHEN,
    "ar.wait('x')": SECONDS,
    "ar.wait(return_when='x')": WHEN,
    "ar.result('x')": SECONDS,
    "ar.exception('x')": SECONDS,
    "ar.get_dict('x')": SECONDS,
    "ar.abort('x')": SECONDS,
    "ar.wait_for_send('x')": SECONDS,
    "ar.wait_for_output('x')": SECONDS,
    "ar[99]": "IndexError: index 99 of a result that has 2",
    "ar['x']": "KeyError: \"no metadata 'x'; there is msg_id, submitted, started, completed, received",
    "ar[1.5]": "TypeError: a result is indexed by an int, a slice or a name of metadata, not 1.5",
    "iter(one)": "TypeError: the result of a single engine can't be iterated over; get() or await it first",
    "ar.timedelta(5, 6)": "TypeError: the start is 5: expected a datetime, or one for each engine",
    "ar.timedelta(ar.submitted, None)": "TypeError: the end is None: that has not happened yet",
    "ar.add_done_callback(5)": "TypeError: a callback is a function, not 5",
    "ar.display_outputs('x')": "ValueError: groupby is 'x'; it can be type, engine, order",
    "ar.join()": "ValueError: join needs at least one AsyncResult",
    "ar.join(5)": "TypeError: join takes AsyncResults, and 5 is none",
}


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Two engines; `half` is defined on the first only."""
    with Cluster(n=2) as client:
        client[0].push({"half": [1]}, block=True)
        client[:].push({"number": 5}, block=True)
        yield client


@pytest.mark.parametrize("code", TABLE)
def test_a_wrong_argument_is_named(rc: Client, code: str) -> None:
    """At once; and nothing has happened to the engines."""
    kind, _, text = TABLE[code].partition(": ")
    names: dict[str, Any] = {"dv": dv, "np": np, "rc": rc, "v": rc[:], "e": rc[0], "cluster": rc.cluster}
    if "ar" in code or "one" in code:
        names |= {"ar": rc[:].apply_async(abs, -1), "one": rc[0].apply_async(abs, -1)}
        rc.wait([names["ar"], names["one"]])
    with pytest.raises(Exception, match=re.escape(text)) as caught:
        eval(code, names)
    assert kind in [made.__name__ for made in type(caught.value).__mro__]
    assert not isinstance(caught.value, CompositeError)
    assert rc[:].apply_sync(abs, -1) == [1, 1]


def test_a_name_that_some_engines_lack_says_which(rc: Client) -> None:
    for ask in (lambda: rc[:]["half"], lambda: rc[:].gather_sync("half"), lambda: rc[:].execute_sync("half")):
        with pytest.raises(CompositeError) as caught:
            ask()
        assert str(caught.value).splitlines()[1:] in (
            [f"[1:apply]: {NOT_DEFINED}"],
            ["[1:apply]: NameError: name 'half' is not defined"],
        )


def test_an_import_that_fails_on_some_engines_says_which(rc: Client, tmp_path: Path) -> None:
    (tmp_path / "only_on_0.py").write_text("x = 5")
    rc[0].execute_sync(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    imports = rc[:].sync_imports(local=False, quiet=True)
    with pytest.raises(CompositeError) as caught, imports:
        import only_on_0  # type: ignore[import-not-found] # noqa: F401
    (line,) = str(caught.value).splitlines()[1:]
    assert line == "[1:apply]: ModuleNotFoundError: No module named 'only_on_0'"
