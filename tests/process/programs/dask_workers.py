"""Engines work for dask and go on to take calls."""

import os

import directview as ipp

with ipp.Cluster(n=2) as rc:
    view = rc[:]
    dask = rc.become_dask(nthreads=1)
    assert dask.gather(dask.map(lambda x: x + 1, range(10))) == list(range(1, 11))
    assert sorted(dask.run(os.getpid).values()) == sorted(view.apply_sync(os.getpid))
    assert rc.become_dask([0]).submit(os.getpid).result() == rc[0].apply_sync(os.getpid)
    rc.stop_dask()
    rc.stop_dask()
    assert view.apply_sync(abs, -1) == [1, 1]
print("both")
