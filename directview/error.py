"""The errors under the name of the module that programs for IPython's parallel tools import."""

from __future__ import annotations

from directview.errors import *  # noqa: F403
from directview.errors import __all__ as __all__
