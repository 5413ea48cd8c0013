"""Work is handed out, looked up again by name, and accounted for: the ledger of a small campaign of calls.

Only what ipyparallel's users know is used: this runs with `import ipyparallel as ipp` too.
Argument: how the module is to be imported.
"""

import datetime
import importlib
import sys
import time

ipp = importlib.import_module(sys.argv[1])

# Started in steps, and connected to twice.
cluster = ipp.Cluster(n=2)
cluster.start_cluster_sync()
rc = cluster.connect_client_sync()
rc.wait_for_engines(2, timeout=60)
other = cluster.connect_client_sync()
other.wait_for_engines(n=2, timeout=60)
assert rc.ids == other.ids == [0, 1]
assert [view.targets for view in rc] == [0, 1]
dview = rc[:]


def simulate(seed, steps):
    import random

    source = random.Random(seed)
    return sum([source.random() for _ in range(steps)])


def fail(seed):
    raise ValueError(f"no luck with {seed}")


# A campaign, of which only the names are kept.
names = {seed: rc[seed % 2].apply_async(simulate, seed, 1000).msg_ids[0] for seed in range(10)}
failing = rc[1].apply_async(fail, 7)
(bad,) = failing.msg_ids
assert rc.wait(list(names.values()), 60)
rc.wait([bad], 60)
assert not rc.outstanding
status = rc.result_status([*names.values(), bad])
assert {*status["completed"], *status["pending"]} == {*names.values(), bad}

for seed, name in names.items():
    again = rc.get_result(name)
    assert again.get(30) == simulate(seed, 1000)
    assert again.engine_id == seed % 2
    assert again.submitted <= again.received
    assert again.started <= again.completed
    assert again.serial_time <= again.wall_time

# What failed says so when it is asked for, as often as that may be.
for _ in range(2):
    try:
        rc.get_result(bad).get(30)
    except ipp.RemoteError as error:
        assert (error.ename, error.evalue) == ("ValueError", "no luck with 7")
        assert "no luck with 7" in "\n".join(error.render_traceback())
    else:
        raise AssertionError("it did not fail")
assert failing.successful() is False

# The controller has seen all of it, whoever asks.
assert set(names.values()) <= set(other.hub_history())
found = other.db_query({"msg_id": {"$in": list(names.values())[:3]}}, keys=["msg_id", "completed"])
assert {record["msg_id"] for record in found} == set(list(names.values())[:3])
assert all(record["completed"] <= datetime.datetime.now(datetime.UTC) for record in found)

# How engines stand; what has not begun can be taken back.
sleeping = rc[0].apply_async(time.sleep, 1)
queued = [rc[0].apply_async(simulate, seed, 10) for seed in range(3)]
table = rc.queue_status()
assert set(table) == {0, 1, "unassigned"}
assert set(table[0]) == {"queue", "tasks", "completed"}
rc.abort(queued, block=True)
for call in queued:
    try:
        call.get(30)
    except ipp.TaskAborted:
        pass
    else:
        raise AssertionError("it ran")
sleeping.get(30)

# Once more, with the same arguments.
first = rc[1].apply_async(simulate, 5, 100)
first.get(30)
assert rc.get_result(rc.resubmit(first.msg_ids).msg_ids[0]).get(30) == first.get()

# Whatever engine is free.
lview = rc.load_balanced_view()
squares = lview.map_async(lambda x: x * x, range(20), ordered=True)
assert squares.get(60) == [x * x for x in range(20)]
assert lview.apply_sync(lambda: 5) == 5

# Forgetting, and the end.
dview.push({"ledger": 1}, block=True)
rc.clear(block=True)
assert dview.apply_sync(lambda: "ledger" in globals()) == [False, False]
rc.purge_results("all")
assert names[0] not in rc.results
other.close()
rc.close()
cluster.stop_cluster_sync()
print("accounted")
