"""Start an engine: `run(options)` in a forked child, or ``python -m directview.engine OPTIONS``."""

from __future__ import annotations

import asyncio
import faulthandler
import sys

from directview.engine._shell import EngineShell
from directview.engine.options import EngineOptions
from directview.errors import DirectViewError

__all__ = ["run"]


def run(options: EngineOptions) -> int:
    """Run an engine until it ends.

    Returns:
        The exit code: 0 after an orderly end, 1 if it could not register; stderr says why.
    """
    log = sys.stderr
    # What a crash in C code was doing goes to the log, and from there into the errors of its calls.
    faulthandler.enable(log)
    try:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            engine = loop.create_task(EngineShell(options).run())
            engine.add_done_callback(lambda _: loop.stop())
            while not engine.done():
                loop.run_forever()  # Also after a call has stopped the loop that it found running.
            reason = engine.result()
    except (DirectViewError, OSError, ValueError) as error:
        print(f"directview engine: {error}", file=log)
        return 1
    print(f"directview engine: ended: {reason}", file=log)
    return 0


if __name__ == "__main__":
    sys.exit(run(EngineOptions.from_json(sys.argv[1])))
