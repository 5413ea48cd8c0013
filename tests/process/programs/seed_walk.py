"""The tutorial of IPython's direct interface, followed from its first line to its last, as a script.

Every input is typed as the page has it (in Python 3), and every output that the page shows is asserted. Left
out are the magics, which need IPython, and the seconds of the page's naps.

Arguments: a copy of the controller's connection file, and a profile of another cluster that runs.
"""

import contextlib
import functools
import io
import json
import operator
import sys
import time

COPY, OTHER_PROFILE = sys.argv[1:]


class Raises:
    """`with Raises(KeyError) as caught:` and then `caught.value`."""

    def __init__(self, kind):
        self.kind = kind

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        assert kind is not None, f"no {self.kind.__name__} was raised"
        self.value = value
        return issubclass(kind, self.kind)


# === Creating a Client instance =========================================================================

from directview import Client

rc = Client()
assert rc.ids == [0, 1, 2, 3]

# If you have copied the json connector file from the controller:
assert Client(COPY).ids == [0, 1, 2, 3]
# or enter its contents as arguments to the Client constructor:
with open(COPY) as file:
    contents = json.load(file)
assert Client(**contents).ids == [0, 1, 2, 3]
# or to connect with a specific profile you have set up:
assert Client(profile=OTHER_PROFILE).ids == [0]

dview = rc[:]  # use all engines
assert repr(dview) == "<DirectView [0, 1, 2, 3]>"

# === Parallel map =======================================================================================

serial_result = list(map(lambda x: x**10, range(32)))
parallel_result = dview.map_sync(lambda x: x**10, range(32))
assert serial_result == parallel_result

# === Remote function decorators =========================================================================


@dview.remote(block=True)
def getpid():
    import os

    return os.getpid()


pids = getpid()
assert len(set(pids)) == 4
assert pids == getpid()

# "you can just use the builtin map with a RemoteFunction"
power = dview.remote(block=True)(lambda x: x**10)
assert list(map(power, range(3))) == [[0] * 4, [1] * 4, [1024] * 4]

import numpy as np

A = np.random.random((64, 48))


@dview.parallel(block=True)
def pmul(A, B):
    return A * B


C_local = A * A
C_remote = pmul(A, A)
assert (C_local == C_remote).all()
assert C_remote.shape == (64, 48)

# === Calling Python functions ===========================================================================

view = rc[1:3]
assert repr(view) == "<DirectView [1, 2]>"
assert [name for name in dir(view) if name.startswith("apply")] == ["apply", "apply_async", "apply_sync"]
assert (view.block, view.track) == (False, False)

# --- Blocking execution ---

dview = rc[:]  # A DirectView of all engines
dview.block = True
dview["a"] = 5
dview["b"] = 10
assert dview.apply(lambda x: a + b + x, 27) == [42, 42, 42, 42]

dview.block = False
assert dview.apply_sync(lambda x: a + b + x, 27) == [42, 42, 42, 42]

rc[::2].execute("c=a+b")
rc[1::2].execute("c=a-b")
assert dview["c"] == [15, -5, 15, -5]  # shorthand for dview.pull('c', block=True)
assert dview["c"] == dview.pull("c", block=True)

# Every keyword is the function's own.
assert dview.apply_sync(lambda **names: names, f=1, block=2) == [{"f": 1, "block": 2}] * 4

# --- Non-blocking execution ---


def wait(t):
    import time

    tic = time.time()
    time.sleep(t)
    return time.time() - tic


# In non-blocking mode
ar = dview.apply_async(wait, 0.2)
# Now block for the result
assert len(ar.get()) == 4
assert all(seconds >= 0.2 for seconds in ar.get())

# Again in non-blocking mode
ar = dview.apply_async(wait, 10)
# Poll to see if the result is ready
assert ar.ready() is False
# ask for the result, but wait a maximum of 1 second:
tic = time.time()
with Raises(TimeoutError) as caught:
    ar.get(1)
assert str(caught.value) == "Result not ready."
assert time.time() - tic > 0.9
ar.abort()  # the page waits for its ten seconds to pass

dview.block = False
# A trivial list of AsyncResults objects
pr_list = [dview.apply_async(wait, 0.02) for i in range(10)]
# Wait until all of them are done
dview.wait(pr_list)
# Then, their results are ready using get() or the `.r` attribute
assert all(pr.ready() for pr in pr_list)
assert len(pr_list[0].get()) == 4
assert pr_list[9].r == pr_list[9].get()
# "a tuple of AsyncResult objects (or msg_ids or indices to the client's History)"
ar = dview.apply_async(wait, 0.02)
assert dview.wait((pr_list[3], ar.msg_ids[2], -1)) is True
assert ar.ready()

# === The block and targets keyword arguments and attributes =============================================

dview.targets = [0, 2]
dview.block = False
ar = dview.apply(lambda: 10)
assert ar.get() == [10, 10]

dview.targets = rc.ids  # all engines (4)
dview.block = True
assert dview.apply(lambda: 42) == [42, 42, 42, 42]

# Keyword arguments override the attributes, for the duration of a single call.
assert dview.pull("a", block=False, targets=[1]).get() == [5]
assert dview.execute("d = 1", targets=2).ready()
assert (dview.block, dview.targets) == (True, [0, 1, 2, 3])

# === Moving Python objects around =======================================================================

assert dview.push(dict(a=1.03234, b=3453)) == [None, None, None, None]
assert dview.pull("a") == [1.03234, 1.03234, 1.03234, 1.03234]
assert dview.pull("b", targets=0) == 3453
assert dview.pull(("a", "b")) == [[1.03234, 3453], [1.03234, 3453], [1.03234, 3453], [1.03234, 3453]]
assert dview.push(dict(c="speed")) == [None, None, None, None]

# In non-blocking mode push and pull also return AsyncResult objects:
ar = dview.pull("a", block=False)
assert ar.get() == [1.03234, 1.03234, 1.03234, 1.03234]

# --- Dictionary interface ---

dview["a"] = ["foo", "bar"]
assert dview["a"] == [["foo", "bar"], ["foo", "bar"], ["foo", "bar"], ["foo", "bar"]]
assert dview.get("a") == dview["a"]
dview.update({"e": 1})
assert dview["e"] == [1, 1, 1, 1]

# --- Scatter and gather ---

assert dview.scatter("a", range(16)) == [None, None, None, None]
assert [list(part) for part in dview["a"]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
assert dview.gather("a") == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]

# === How to do parallel list comprehensions =============================================================

dview.scatter("x", range(64))
dview.execute("y = [i**10 for i in x]")  # %px
y = dview.gather("y")
assert y[:9] == [0, 1, 1024, 59049, 1048576, 9765625, 60466176, 282475249, 1073741824]
assert y == [i**10 for i in range(64)]

# === Remote imports =====================================================================================

with contextlib.redirect_stdout(io.StringIO()) as printed, dview.sync_imports():
    import numpy
assert printed.getvalue() == "importing numpy on engine(s)\n"
assert dview.apply_sync(lambda: numpy.arange(3).sum()) == [3] * 4

from directview import UnmetDependencyError, require


@require("re")
def findall(pat, x):
    # re is guaranteed to be available
    return re.findall(pat, x)


assert dview.apply_sync(findall, "o+", "foo boo") == [["oo", "oo"]] * 4


# you can also pass modules themselves, that you already have locally:
@require(time)
def wait(t):
    time.sleep(t)
    return t


assert dview.apply_sync(wait, 0.01) == [0.01] * 4


@require("no_such_module_anywhere")
def never():
    global was_run
    was_run = True


with Raises(UnmetDependencyError):
    rc[0].apply_sync(never)
assert dview.pull("'was_run' in globals()") == [False] * 4

# === Parallel exceptions ================================================================================

from directview import client

SHOWN = """\
one or more exceptions from call to method: _execute
[0:apply]: ZeroDivisionError: division by zero
[1:apply]: ZeroDivisionError: division by zero
[2:apply]: ZeroDivisionError: division by zero
[3:apply]: ZeroDivisionError: division by zero"""

dview.block = True
with Raises(client.CompositeError) as caught:
    dview.execute("1/0")
assert str(caught.value) == SHOWN

# If you want, you can even raise one of these original exceptions:
with Raises(ZeroDivisionError) as caught:
    try:
        dview.execute("1/0")
    except client.CompositeError as e:
        e.raise_exception()
assert "division by zero" in str(caught.value)
try:
    dview.execute("1/0")
except client.CompositeError as e:
    with Raises(IndexError):
        e.raise_exception(9)

# In the debugger, e is the exception, and has extra methods and attributes.
try:
    dview.execute("1/0")
except client.CompositeError as error:
    e = error
assert {"args", "elist", "message", "print_tracebacks", "raise_exception"} <= set(dir(e))
assert e.message == "one or more exceptions from call to method: _execute"
assert [ename for ename, _, _, _ in e.elist] == ["ZeroDivisionError"] * 4
with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
    e.print_tracebacks()
for engine in range(4):
    assert f"[{engine}:apply]" in printed.getvalue()
assert printed.getvalue().count("Traceback (most recent call last):") == 4
assert printed.getvalue().count("ZeroDivisionError: division by zero") == 4

# All of this same error handling magic even works in non-blocking mode:
dview.block = False
ar = dview.execute("1/0")
with Raises(client.CompositeError) as caught:
    ar.get()
assert str(caught.value) == SHOWN

# And the engines are none the worse for it.
assert functools.reduce(operator.add, dview.apply_sync(lambda: [1])) == [1, 1, 1, 1]
rc.close()
print("walked")
