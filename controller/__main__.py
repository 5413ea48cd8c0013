"""Start a controller: `run(options)` in a forked child, or ``python -m directview.controller OPTIONS``."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from directview._log_writing import ProcessLog, text_handler
from directview.controller._shell import ControllerShell
from directview.controller.options import ControllerOptions
from directview.errors import DirectViewError

__all__ = ["run"]


def run(options: ControllerOptions) -> int:
    """Run a controller until it ends.

    Returns:
        The exit code: 0 after an orderly end, 1 if it could not start. What went wrong is written to
        ``options.ready_fd`` if that is given, otherwise to stderr.
    """
    logging.basicConfig(level=logging.INFO, handlers=[text_handler("%(levelname)s %(name)s: %(message)s")])
    log = ProcessLog("controller", Path(options.folder) / "controller.jsonl", options.log_level, "")
    try:
        asyncio.run(ControllerShell(options).run())
    except (DirectViewError, OSError, ValueError) as error:
        if options.ready_fd >= 0:
            try:
                os.write(options.ready_fd, json.dumps({"error": str(error)}).encode() + b"\n")
                return 1
            except OSError:
                pass
        print(f"directview controller: {error}", file=sys.stderr)
        return 1
    finally:
        log.close()
    return 0


if __name__ == "__main__":
    sys.exit(run(ControllerOptions.from_json(sys.argv[1])))
