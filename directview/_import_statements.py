"""Which import statement a frame is at, and how it reads as source. Pure.

The import system tells ``__import__`` which module is wanted, but not under which name (``import a as b``).
That stands in the frame's bytecode, behind the instruction that it is at; no source is needed for it, so it
works wherever code can be typed in.
"""

from __future__ import annotations

import dis
import importlib.util
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

from directview import operations

__all__ = ["OnEngines", "Statement", "read"]

_FILLERS: Final = ("EXTENDED_ARG", "CACHE", "NOP")


@dataclass(frozen=True, slots=True)
class Binding:
    attribute: str
    """What is taken from the module; empty for the module itself."""
    name: str
    store: str
    """The instruction that sets it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One import statement."""

    module: str
    """By its absolute name."""
    is_from: bool
    bindings: tuple[Binding, ...]
    """Nothing for ``from a import *``."""

    @property
    def source(self) -> str:
        """The statement again."""
        if not self.is_from:
            (binding,) = self.bindings
            if binding.name == self.module.partition(".")[0] and not binding.attribute:
                return f"import {self.module}"
            return f"import {self.module} as {binding.name}"
        names = [
            binding.name if binding.name == binding.attribute else f"{binding.attribute} as {binding.name}"
            for binding in self.bindings
        ]
        return f"from {self.module} import {', '.join(names) or '*'}"

    @property
    def says(self) -> str:
        """What the user is told."""
        if not self.is_from:
            return f"importing {self.module} on engine(s)"
        names = ",".join([binding.attribute for binding in self.bindings]) or "*"
        return f"importing {names} from {self.module} on engine(s)"

    def is_imported(self) -> bool:
        """Whether to do it here would import nothing."""
        module = sys.modules.get(self.module)
        if module is None or not self.is_from:
            return module is not None
        return all([hasattr(module, binding.attribute) for binding in self.bindings])

    def places(self, frame: FrameType) -> Iterator[tuple[str, MutableMapping[str, Any]]]:
        """The names that it sets, and where, as far as a value there can be taken back."""
        for binding in self.bindings:
            if binding.store == "STORE_GLOBAL":
                yield binding.name, frame.f_globals
            elif binding.store == "STORE_NAME":
                yield binding.name, frame.f_locals

    def stand_in(self) -> Any:
        """For what `__import__` returns."""
        if self.is_from:
            source = ModuleType(self.module)
            vars(source)["__all__"] = []  # for `import *`
            for binding in self.bindings:
                what = f"{self.module}.{binding.attribute}"
                vars(source)[binding.attribute] = OnEngines(what, binding.name)
            return source
        (binding,) = self.bindings
        top, *parts = self.module.split(".")
        if not binding.attribute:
            return OnEngines(top, binding.name)
        found: Any = OnEngines(self.module, binding.name)
        for part in reversed(parts):
            holder = ModuleType(self.module)
            vars(holder)[part] = found
            found = holder
        return found


def read(frame: FrameType, name: str, fromlist: Sequence[str] | None, level: int) -> Statement:
    """The statement that `frame` is at."""
    module = name
    if level > 0:
        package = frame.f_globals.get("__package__") or frame.f_globals.get("__name__", "")
        module = importlib.util.resolve_name("." * level + name, str(package))
    bindings = _bindings(frame.f_code, frame.f_lasti, fromlist)
    if bindings is None:  # no statement, but a call of `__import__`
        taken = [attribute for attribute in fromlist or () if attribute != "*"]
        bindings = tuple([Binding(attribute, attribute, "") for attribute in taken])
        if not fromlist:
            bindings = (Binding("", module.partition(".")[0], ""),)
    return Statement(module, bool(fromlist), bindings)


def _bindings(code: CodeType, at: int, fromlist: Sequence[str] | None) -> tuple[Binding, ...] | None:
    """What the import statement at an instruction sets; nothing for ``import *``; None if it is none."""
    rest = (
        instruction
        for instruction in dis.get_instructions(code)
        if instruction.offset >= at and instruction.opname not in _FILLERS
    )
    first = next(rest, None)
    if first is None or first.opname != "IMPORT_NAME":
        return None
    if fromlist and fromlist[0] == "*":
        return ()
    found: list[Binding] = []
    attribute = ""  # `import a.b as c` takes b from a, too
    for instruction in rest:
        if instruction.opname == "IMPORT_FROM":
            attribute = str(instruction.argval)
        elif instruction.opname.startswith("STORE_"):
            # Since 3.13 an instruction may store one name and load or store another.
            name = instruction.argval[0] if isinstance(instruction.argval, tuple) else instruction.argval
            found.append(Binding(attribute, str(name), instruction.opname))
            if len(found) == len(fromlist or "1"):
                return tuple(found)
    return None


# --- where nothing is imported here ---------------------------------------------------------------------


class OnEngines:
    """What a name of the block stands for here, if it is imported on the engines only.

    It is of no use here, but may be sent: an engine puts in its place what it has under the name.
    """

    def __init__(self, what: str, name: str) -> None:
        self._what = what
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._what}, on the engines only>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self._what} has no {name!r} here: it was imported on the engines only")

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise TypeError(f"{self._what} can't be called here: it was imported on the engines only")

    def __reduce__(self) -> tuple[Any, ...]:
        return operations.dereference, (self._name,)
