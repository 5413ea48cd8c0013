"""Words of texts are counted on engines, in every way in which one may: map, parallel, remote, futures.

Only what ipyparallel's users know is used: this runs with `import ipyparallel as ipp` too.
Argument: how the module is to be imported.
"""

import concurrent.futures
import importlib
import sys
from collections import Counter

ipp = importlib.import_module(sys.argv[1])

TEXTS = [f"{'the ' * (i % 7)}word{i % 5} of text {i}" for i in range(50)]
EXPECTED = sum([Counter(text.split()) for text in TEXTS], Counter())


@ipp.require("re", "collections")
def count(text):
    return collections.Counter(re.findall(r"\w+", text))


@ipp.require("no_module_of_this_name")
def never(text):
    raise AssertionError(text)


@ipp.interactive
def where():
    return my_id


with ipp.Cluster(n=3) as rc:
    dview = rc[:]
    ar = dview.scatter("my_id", rc.ids, flatten=True)
    ar.wait(30)
    assert dview.apply_sync(where) == rc.ids

    # A map: all at once, as they come, with progress.
    amr = dview.map_async(count, TEXTS)
    amr.wait_interactive(interval=0.01, timeout=30)
    assert amr.ready()
    assert amr.successful()
    assert len(amr) == len(TEXTS)
    assert sum(amr.get(), Counter()) == EXPECTED
    seen = []
    for text, counted in zip(TEXTS, dview.map_async(count, TEXTS)):
        assert counted == Counter(text.split())
        seen.append(text)
    assert seen == TEXTS

    # A parallel function: whole parts, and element by element.
    @dview.parallel(block=True)
    def lengths(texts):
        return [len(text) for text in texts]

    assert lengths(TEXTS) == [len(text) for text in TEXTS]
    upper = dview.parallel(block=True)(lambda text: text.upper())
    assert upper.map(TEXTS) == [text.upper() for text in TEXTS]

    # A remote function, and one engine of its own.
    @rc[1].remote(block=False)
    def describe(prefix, *, end="."):
        return f"{prefix}{my_id}{end}"

    answer = describe("engine ", end="!")
    assert answer.get(30) == "engine 1!"
    assert answer.engine_id == 1
    assert answer.status == "ok"

    # As futures: each engine's part by itself.
    ar = dview.apply_async(count, "a b a")
    done, pending = concurrent.futures.wait(ar.split(), timeout=30)
    assert not pending
    assert [part.result()["a"] for part in done] == [2, 2, 2]
    done, pending = ar.wait(30, return_when=concurrent.futures.ALL_COMPLETED)
    assert len(done) == 3
    assert ipp.AsyncResult.join(*ar.split()).get(30) == ar.get()
    assert ar.get_dict(30) == {id: Counter("aab") for id in rc.ids}

    # What cannot be met is not run.
    try:
        rc[0].apply_sync(never, "x")
    except ipp.RemoteError as error:
        assert error.ename.startswith("UnmetDependency")
    else:
        raise AssertionError("it was run")

    # Output, kept by engine; flags for a while; names known to the client.
    with dview.temp_flags(block=True):
        dview.execute("print('engine', my_id)")
    ar = dview.execute("print('engine', my_id)")
    ar.get(30)
    ar.wait_for_output(30)
    assert ar.stdout == [f"engine {id}\n" for id in rc.ids]
    assert set(ar.msg_ids) <= set(rc.history)
    assert not rc.outstanding.intersection(ar.msg_ids)
    ar = dview.apply_async(lambda x: x + 1, 1)
    assert rc.wait(ar.msg_ids, 30)
    assert rc.get_result(ar.msg_ids).get(30) == [2] * 3

    # Nested names.
    rc[0].execute("class Box: pass\nbox = Box()", block=True)
    rc[0].push({"box.size": 3}, block=True)
    assert rc[0]["box.size"] == 3
    assert rc[0].pull(("box.size", "my_id"), block=True) == [3, 0]

print("counted")
