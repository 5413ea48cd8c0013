"""A session in an IPython shell: cells for engines, by the magics that ipyparallel's users type.

Only what they know is used: this runs with `import ipyparallel as ipp` too.
Argument: how the module is to be imported.
"""

import contextlib
import importlib
import io
import sys

from IPython.core.interactiveshell import InteractiveShell

ipp = importlib.import_module(sys.argv[1])
shell = InteractiveShell.instance()


def cell(source):
    """Run a cell; what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        done = shell.run_cell(source)
    done.raise_error()
    return printed.getvalue()


with ipp.Cluster(n=2) as rc:
    shell.user_ns["rc"] = rc
    view = rc[:]
    view.activate()
    view.block = True

    cell("%px import math")
    cell("%px a = 5")
    assert view["a"] == [5, 5]
    said = cell("%px print('a is', a)")
    assert said.count("a is 5") == 2, said
    assert "[stdout:0]" in said
    assert "[stdout:1]" in said

    cell("%%px --targets 1\na = 7\nb = a + 1")
    assert view["a"] == [5, 7]
    assert rc[1]["b"] == 8

    # Here too, and not waited for.
    cell("%%px --local\nc = 3")
    assert view["c"] == [3, 3]
    assert shell.user_ns["c"] == 3
    cell("%%px --noblock\nd = a * 2\nprint('d is', d)")
    said = cell("%pxresult")
    assert "d is 10" in said
    assert "d is 14" in said

    # One view for even engines, by its own name.
    rc[::2].activate("_even")
    cell("%px_even e = 1")
    assert view.pull("'e' in globals()") == [True, False]

    # All of it there, until further notice.
    cell("%autopx")
    cell("f = [a, a + 1]")
    cell("print(sum(f))")
    cell("%autopx")
    assert "f" not in shell.user_ns
    assert view["f"] == [[5, 6], [7, 8]]

    # An error, as the engines have it.
    try:
        cell("%px 1 / (a - 5)")
    except ipp.RemoteError:
        pass
    else:
        raise AssertionError("it did not fail")

print("typed")
