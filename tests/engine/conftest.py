"""For tests of the engine's parts."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

from tests.engine.functions_of_a_client import CLIENT, ROOT, Engine, Packed


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """What a client whose ``__main__`` is CLIENT sends."""
    script = tmp_path_factory.mktemp("client") / "client.py"
    script.write_text(CLIENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def engine() -> Engine:
    return Engine(a=5, b=10)
