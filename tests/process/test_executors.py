"""Views as executors, and libraries that run their work on engines: each gives what it gives without them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emcee
import joblib
import numpy as np
import pytest
from scipy.optimize import differential_evolution, rosen
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import directview
from directview import AsyncResult, Client, Cluster, LoadBalancedView, RemoteError, ViewExecutor, errors
from tests.process.held import hold

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("nothing_left")]

DEADLINE = 30.0


@pytest.fixture(scope="module")
def rc(own_folders: Path) -> Iterator[Client]:
    """Four engines for the module, which have imported it: that takes them a second."""
    with Cluster(n=4) as client:
        client[:].apply_sync(nap, 0)
        yield client


@pytest.fixture
def v(rc: Client) -> LoadBalancedView:
    return rc.load_balanced_view()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


# --- executors ------------------------------------------------------------------------------------------


def test_it_is_an_executor_like_any_other(rc: Client, v: LoadBalancedView) -> None:
    for executor in (v.executor, rc.executor(), rc[:].executor, rc[1].executor, rc.executor([0, 2])):
        assert isinstance(executor, concurrent.futures.Executor)
        assert isinstance(executor, ViewExecutor)
        future = executor.submit(pow, 2, exp=5)
        assert isinstance(future, concurrent.futures.Future)
        assert isinstance(future, AsyncResult)
        assert future.result(DEADLINE) == 32
        assert list(executor.map(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
    assert v.executor.view is v
    assert rc[1].executor.submit(nap, 0).get_dict(DEADLINE).keys() == {1}


def test_its_futures_raise_the_error_itself(v: LoadBalancedView) -> None:
    with v.executor as executor:
        future = executor.submit(int, "a")
        with pytest.raises(ValueError, match="invalid literal") as caught:
            future.result(DEADLINE)
        assert isinstance(caught.value, RemoteError)
        results = executor.map(int, ["1", "a", "2"])
        assert next(results) == 1
        with pytest.raises(ValueError, match="invalid literal"):
            next(results)


def test_wait_and_as_completed(v: LoadBalancedView, tmp_path: Path) -> None:
    executor = v.executor
    fast, slow = executor.submit(nap, 0.0), executor.submit(hold, tmp_path / "go on")
    done, still = concurrent.futures.wait([fast, slow], DEADLINE, return_when="FIRST_COMPLETED")
    assert (done, still) == ({fast}, {slow})
    (tmp_path / "go on").touch()
    assert list(concurrent.futures.as_completed([slow, fast], DEADLINE)) == [fast, slow]


async def test_in_an_event_loop(rc: Client) -> None:
    loop = asyncio.get_running_loop()
    executor = rc.executor()
    assert await loop.run_in_executor(executor, pow, 2, 3) == 8
    async with Client(rc._info) as bound:
        executor = bound.executor()
        assert await loop.run_in_executor(executor, pow, 2, 3) == 8
        assert await asyncio.gather(*[executor.submit(abs, -x) for x in range(5)]) == [0, 1, 2, 3, 4]
        running = executor.submit(nap, 60)
        with pytest.raises(errors.WouldBlockLoop):
            executor.shutdown()
        executor.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(errors.TaskAborted):
            await running
        await running.abort_async()


def test_map_in_chunks_and_in_time(v: LoadBalancedView) -> None:
    executor = v.executor
    before = len(v.history)
    assert list(executor.map(abs, range(-10, 0), chunksize=4)) == list(range(10, 0, -1))
    assert len(v.history) - before == 3
    assert list(executor.map(abs, [])) == []
    late = executor.map(nap, [0.0, 60.0], timeout=2)
    assert next(late) == 0.0
    with pytest.raises(TimeoutError):
        next(late)
    assert v.wait(timeout=DEADLINE), "what had not ended in time was cancelled"
    left = executor.map(nap, [60.0] * 10)
    del left
    assert v.wait(timeout=DEADLINE)
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)


def test_shutdown_waits_for_its_calls_and_takes_no_more(v: LoadBalancedView) -> None:
    with v.executor as executor:
        futures = [executor.submit(nap, 0.1) for _ in range(6)]
        results = executor.map(abs, [-1, -2])
    assert all(future.done() for future in futures)
    assert list(results) == [1, 2]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(nap, 0)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(nap, [0])
    assert v.executor.submit(abs, -1).result(DEADLINE) == 1


def test_shutdown_can_cancel(v: LoadBalancedView) -> None:
    executor = v.executor
    futures = [executor.submit(nap, 60) for _ in range(10)]
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    assert v.wait(timeout=DEADLINE)


# --- libraries ------------------------------------------------------------------------------------------


def test_grid_search(rc: Client, v: LoadBalancedView) -> None:
    data = make_classification(n_samples=120, n_features=6, random_state=0)
    grid = {"C": [0.1, 1, 10], "gamma": [0.01, 0.1]}
    serial = GridSearchCV(SVC(), grid, cv=3).fit(*data)
    v.register_joblib_backend()
    before = len(v.history)
    for name in ("directview", "ipyparallel"):
        with joblib.parallel_backend(name):
            search = GridSearchCV(SVC(), grid, cv=3, n_jobs=-1).fit(*data)
        assert search.best_params_ == serial.best_params_
        assert np.array_equal(search.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"])
    assert len(v.history) > before


def test_joblib(rc: Client) -> None:
    rc[[0, 1]].register_joblib_backend("two engines")
    rc.register_joblib_backend("all engines")
    for name, n in [("two engines", 2), ("all engines", 4)]:
        with joblib.parallel_backend(name):
            assert joblib.effective_n_jobs(-1) == n
            parallel = joblib.Parallel(n_jobs=-1)
            assert parallel(joblib.delayed(pow)(x, 2) for x in range(50)) == [x * x for x in range(50)]
            with pytest.raises(ValueError, match="invalid literal"):
                parallel(joblib.delayed(int)(x) for x in ["1", "a"] * 20)
            lazily = joblib.Parallel(n_jobs=-1, return_as="generator")
            assert list(lazily(joblib.delayed(abs)(-x) for x in range(20))) == list(range(20))
            with pytest.raises(TypeError, match="lock"):
                parallel(joblib.delayed(repr)(threading.Lock()) for _ in range(2))


def test_joblib_on_the_default_cluster(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directview.register_joblib_backend("by default")
    with Cluster(n=2, profile="default"):
        with joblib.parallel_backend("by default"):
            assert joblib.effective_n_jobs(-1) == 2
            assert joblib.Parallel()(joblib.delayed(abs)(-x) for x in range(5)) == [0, 1, 2, 3, 4]
        from directview import _joblib

        (view,) = _joblib._default
        view.client.close()
        _joblib._default.clear()


def test_differential_evolution(v: LoadBalancedView) -> None:
    options: dict[str, Any] = {"maxiter": 8, "popsize": 6, "polish": False, "seed": 1}
    options |= {"bounds": [(0, 2)] * 3, "updating": "deferred"}
    parallel: dict[str, Any] = {**options, "workers": v.map_sync}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy's, on workers and updating
        serial = differential_evolution(rosen, **options)
        ours = differential_evolution(rosen, **parallel)
    assert np.array_equal(ours.x, serial.x)
    assert ours.fun == serial.fun


def log_prob(x: Any, ivar: Any) -> Any:
    return -0.5 * (ivar * x**2).sum()


@pytest.mark.parametrize("kind", ["view", "executor"])
def test_emcee(v: LoadBalancedView, kind: str) -> None:
    ivar = np.array([1.0, 2.0, 3.0])
    start = np.random.default_rng(1).standard_normal((8, 3))

    def chain(pool: Any) -> Any:
        sampler = emcee.EnsembleSampler(8, 3, log_prob, args=[ivar], pool=pool)
        sampler.random_state = np.random.RandomState(4).get_state()
        sampler.run_mcmc(start, 10)
        return sampler.get_chain()

    pool = v.options(block=True) if kind == "view" else v.executor
    assert np.array_equal(chain(pool), chain(None))
