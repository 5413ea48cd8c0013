"""Heat flows along a rod whose pieces lie on engines, and is compared with the whole rod computed here.

Only what ipyparallel's users know is used: this runs with `import ipyparallel as ipp` too.
Argument: how the module is to be imported.
"""

import importlib
import sys

import numpy as np

ipp = importlib.import_module(sys.argv[1])
cluster = ipp.Cluster(n=4)
rc = cluster.start_and_connect_sync()
rc.wait_for_engines(4)
view = rc[:]
view.block = True

with view.sync_imports(quiet=True):
    import numpy

# Each engine has a piece of the rod, and an end of each neighbour's.
rod = np.zeros(4 * 25)
rod[10:40] = 1.0
rod[77] = 5.0
view.scatter("u", rod)
view.scatter("rank", rc.ids, flatten=True)
view.push({"n_pieces": len(rc), "rate": 0.2})


def ends():
    return u[0], u[-1]


def step(left, right):
    global u
    padded = numpy.concatenate([[left], u, [right]])
    u = u + rate * (padded[:-2] - 2 * u + padded[2:])
    return float(u.sum())


def whole_step(u, rate=0.2):
    padded = np.concatenate([[u[0]], u, [u[-1]]])
    return u + rate * (padded[:-2] - 2 * u + padded[2:])


pieces = [rc[id] for id in rc.ids]
expected = rod
for _ in range(30):
    firsts, lasts = zip(*view.apply_sync(ends))
    lefts = [firsts[0], *lasts[:-1]]
    rights = [*firsts[1:], lasts[-1]]
    results = [piece.apply_async(step, left, right) for piece, left, right in zip(pieces, lefts, rights)]
    assert rc.wait(results, 30)
    heat = sum([result.get() for result in results])
    expected = whole_step(expected)
    assert abs(heat - expected.sum()) < 1e-9
    assert abs(heat - rod.sum()) < 1e-9

found = view.gather("u")
assert isinstance(found, np.ndarray)
assert np.allclose(found, expected, atol=1e-12)

# What lies on the engines is used by reference, not sent.
warmest = view.apply_sync(lambda part, k: (float(part.max()), k), ipp.Reference("u"), k=ipp.Reference("rank"))
assert [rank for _, rank in warmest] == [0, 1, 2, 3]
assert np.isclose(max(warmest)[0], expected.max())
assert np.allclose(view["u[0]"], [expected[0], expected[25], expected[50], expected[75]])

# The result of a call that fails on one engine.
ar = view.apply_async(lambda: 1 / rank)
try:
    ar.get(30)
except ipp.CompositeError as error:
    (failure,) = error.elist
    assert failure[0] == "ZeroDivisionError"
else:
    raise AssertionError("nothing failed")
assert not ar.successful()
found = ar.get(return_exceptions=True)
assert isinstance(found[0], Exception)
assert found[1:] == [1.0, 1 / 2, 1 / 3]

# Timings.
ar = view.apply_async(lambda: __import__("time").sleep(0.1))
ar.wait_for_output(30)
assert ar.get(30) == [None] * 4
assert len(ar) == 4
assert ar.progress == 4
assert ar.serial_time > 0.35
assert ar.elapsed == ar.wall_time < 30
assert 0.05 < ar.timedelta(ar.started, ar.completed) < 30
assert [md["engine_id"] for md in ar.metadata] == ar["engine_id"] == rc.ids

rc.close()
cluster.stop_cluster_sync()
print("same")
