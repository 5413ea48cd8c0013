"""The engine's namespace, and how functions from a client come to see it. Pure: no loop, socket or clock.

A name in a user's function is looked for in the engine's namespace first, then among what travelled with
the function, then in Python's builtins. Three things make that so:

- A function from ``__main__`` is rebuilt with the namespace as its globals, and with an overlay (the
  builtins and what travelled, see `directview.engine._overlay`) as its builtins. Every function of the
  pickle gets this: methods, closures, what is decorated, what lies in a list of arguments.
- A function that is *made* while another runs (a nested one, a lambda, a generator expression) takes its
  builtins from ``__builtins__`` in its globals. So the overlay is put there around every step of the call,
  with `enter` and `leave`.
- A function that stays in the namespace when its call is over (a pushed one, a ``global`` one) goes on to
  find its names while it stays: what came with it lies under the overlay of each later call.

A function from a module that the engine has not got by name (a lambda in a test module, what a library's
decorator made) is a guest: what travelled with it comes first, so that the namespace can't get between a
library and its own names, and the namespace next (`directview.engine._overlay.Guest`).

``global`` statements write to the namespace; nothing else that is shipped does. What is not found: names
that stand only in strings given to ``eval`` or ``exec``, since no pickler can see them; and names for
functions that a thread makes after its call has ended, or that stay only inside of a container.

Use, in the order of a call::

    function, overlay = namespace.load(function_data, function_buffers)
    (args, kwargs), arguments = namespace.load(arguments_data, arguments_buffers)
    overlay = namespace.merge(overlay, arguments)
    steps.run(call, overlay, function, args, kwargs)        # see directview.engine._steps
    namespace.dumps(result)
"""

from __future__ import annotations

import builtins
import dis
import functools
import io
import pickle
import sys
from collections.abc import Sequence
from opcode import opmap
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, Final

from directview.engine._mould import MapMould, Mould, make_function
from directview.engine._overlay import PLAIN, Guest, Layouts, Overlay
from directview.operations import map_chunk, map_chunk_return_exceptions
from directview.wire import by_value, objects
from directview.wire.by_value import PLAIN_BUILTINS, State, builtins_of, fill_fields, names_beside_builtins
from directview.wire.objects import Packed

__all__ = ["PLAIN", "Namespace", "Overlay"]

_MARK: Final = by_value.make_main_function.__name__.encode()
_REFERENCE: Final = b"dereference"
_GUEST: Final = by_value.make_guest_function.__name__.encode()
_MARKED_BYTES: Final = 64 << 10
"""In a longer pickle the mark is not looked for: the search would take longer than a slower unpickler."""
_MOULDS: Final = 512
_WITHHELD: Final = 1024
_MAPPERS: Final = (map_chunk, map_chunk_return_exceptions)
_STORES_GLOBAL: Final = (opmap["STORE_GLOBAL"], opmap["DELETE_GLOBAL"])


class Namespace:
    """One engine's namespace."""

    def __init__(self) -> None:
        self.module = ModuleType("__main__")
        self.names: dict[str, Any] = vars(self.module)
        """The namespace itself."""
        self.names["__builtins__"] = builtins
        self._layouts = Layouts()
        self._moulds: dict[bytes, Mould | MapMould | None] = {}
        self._withheld: dict[str, int] = {}
        self._base: Overlay = PLAIN
        """What came with the functions that stay in the namespace."""
        self._settled = 0
        """How many names there were when that was last found out."""
        self._depth = 0
        self._replaced: ModuleType | None = None

    def install(self) -> None:
        """Make this the ``__main__`` of the process, so that classes made here are pickled by value."""
        # The old one must live on: the code that called us runs in it.
        self._replaced = sys.modules.get("__main__")
        sys.modules["__main__"] = self.module

    # --- arriving ---------------------------------------------------------------------------------------

    def load(self, data: bytes, buffers: Sequence[Any] = ()) -> tuple[Any, Overlay]:
        """Unpickle what a client sent.

        Args:
            data: the pickle.
            buffers: its out-of-band buffers.

        Returns:
            The object, never shared with another call; and the overlay to be in place while it is used.

        Raises:
            Exception: something that it needs is not here (a note says what to do), or whatever an object's
                own rebuilding raises.
        """
        try:
            if len(data) <= _MARKED_BYTES:
                if _MARK not in data and _GUEST not in data:
                    return objects.loads(data, buffers), PLAIN
                if not buffers:
                    mould = self._moulds.get(data)
                    if mould is not None:
                        return mould.cast()
            return self._load(data, buffers)
        except (ImportError, AttributeError) as error:
            if getattr(error, "__notes__", None):  # a Reference has said more
                raise
            error.add_note(
                "This was raised on the engine while it loaded what the client sent. A module that only the "
                "client has must be installed or on sys.path there too, or be sent along: "
                "cloudpickle.register_pickle_by_value(module) on the client."
            )
            raise

    def _load(self, data: bytes, buffers: Sequence[Any]) -> tuple[Any, Overlay]:
        arrival = _Arrival(self.names, self._layouts)
        unpickler = _Unpickler(io.BytesIO(data), buffers=buffers)
        unpickler.arrival = arrival
        obj = unpickler.load()
        guests = arrival.writing_guests()
        if not arrival.functions and not guests:
            return obj, PLAIN
        mapped = _mapped(obj)
        function = obj if mapped is None else mapped.args[0]
        is_function = type(function) is FunctionType
        # Arguments may be put anywhere by what is called with them; so may what `require` takes along.
        stays = not is_function or any([bool(_stored_globals(made.__code__)) for made in arrival.functions])
        overlay = arrival.overlay(stays=stays, guests=guests)
        if overlay.withheld:
            self._remember_withheld(overlay)
        if (
            is_function
            and not arrival.guests
            and not buffers
            and len(data) <= _MARKED_BYTES
            and data not in self._moulds
            and _REFERENCE not in data  # what it stands for changes
        ):
            while len(self._moulds) >= _MOULDS:
                del self._moulds[next(iter(self._moulds))]
            mould = Mould.of(function, arrival.functions, overlay, self._layouts, self.names)
            self._moulds[data] = mould if mould is None or mapped is None else MapMould(mapped.func, mould)
        return obj, overlay

    def merge(self, first: Overlay, second: Overlay) -> Overlay:
        """One overlay with what came with both (a function and its arguments); `first` counts."""
        return self._layouts.merge(first, second)

    # --- leaving ----------------------------------------------------------------------------------------

    def dumps(self, obj: object, *, part: str = "the result") -> Packed:
        """Pickle a result. Functions take along the names that they had from a client.

        Raises:
            SerializationError: a part of it can't be pickled; the text says which.
        """
        return objects.dumps(obj, part=part)

    def dumps_whole(self, obj: object) -> bytes:
        """Pickle a part of an error, its buffers in the same stream.

        Raises:
            SerializationError: it can't be pickled.
        """
        return objects.dumps_whole(obj)

    # --- while a call runs ------------------------------------------------------------------------------

    def enter(self, overlay: Overlay) -> Any:
        """Put `overlay` in place for one step; what is returned is for `leave`. Steps may be nested."""
        before = self.names.get("__builtins__", builtins)
        self.replace(overlay)
        self._depth += 1
        return before

    def replace(self, overlay: Overlay) -> None:
        """Put `overlay` in the place of the one that was entered last; `leave` is told of the new one."""
        base = self._base
        here: Any
        if base is PLAIN:
            here = overlay.builtins if overlay.names else builtins
        elif not overlay.names:
            here = base.builtins
        elif overlay.above is not None and overlay.above[0] is base:
            here = overlay.above[1]
        else:
            here = self._layouts.make({**base.names, **overlay.names})
            overlay.above = (base, here)
        self.names["__builtins__"] = here

    def leave(self, overlay: Overlay, before: Any) -> None:
        """End the step that `enter` began."""
        self._depth -= 1
        for guest in overlay.guests:
            guest.hand_over()
        if (overlay.stays and overlay.names) or (
            self._base is not PLAIN and len(self.names) != self._settled  # cleared, or deleted from
        ):
            self._settle()
        if self._depth == 0:
            before = self._base.builtins if self._base.names else builtins
        self.names["__builtins__"] = before

    def _settle(self) -> None:
        """Find out what came with the functions that are in the namespace now."""
        self._settled = len(self.names)
        found: dict[int, dict[str, Any]] = {}
        for value in list(self.names.values()):
            for function in _functions_of(value):
                beside = builtins_of(function)
                if beside is not PLAIN_BUILTINS and id(beside) not in found:
                    found[id(beside)] = beside
        names: dict[str, Any] = {}
        for beside in found.values():
            names.update(names_beside_builtins(beside))
        if not names:
            self._base = PLAIN
        elif not _same(names, self._base.names):
            self._base = Overlay(names, self._layouts.make(names), {})

    # --- errors -----------------------------------------------------------------------------------------

    def _remember_withheld(self, overlay: Overlay) -> None:
        for name, size in overlay.withheld.items():
            self._withheld.pop(name, None)
            self._withheld[name] = size
        while len(self._withheld) > _WITHHELD:
            del self._withheld[next(iter(self._withheld))]

    def explain(self, error: BaseException, overlay: Overlay | None = None) -> None:
        """Add to a NameError, here or in what it was raised from, that the client has the name.

        Args:
            error: what a call raised.
            overlay: that of the call; by default whatever has been withheld lately is looked through.
        """
        withheld = self._withheld if overlay is None else overlay.withheld
        if not withheld:
            return
        waiting: list[BaseException | None] = [error]
        seen: set[int] = set()
        while waiting and len(seen) < 64:
            current = waiting.pop()
            if current is None or id(current) in seen:
                continue
            seen.add(id(current))
            name = current.name if isinstance(current, NameError) else None
            if name is not None and name in withheld:
                note = (
                    f"The client has {name!r} ({_size(withheld[name])}), too large to travel with a "
                    f"function: push it first, view.push({{{name!r}: {name}}})."
                )
                if note not in getattr(current, "__notes__", ()):
                    current.add_note(note)
            waiting += [current.__cause__, current.__context__]
            if isinstance(current, BaseExceptionGroup):
                waiting += current.exceptions


class _Arrival:
    """The functions of one pickle while it is being unpickled."""

    def __init__(self, namespace: dict[str, Any], layouts: Layouts) -> None:
        self.functions: list[FunctionType] = []
        self._namespace = namespace
        self._layouts = layouts
        self._names: dict[str, Any] = {}
        self._withheld: dict[str, int] = {}
        self._builtins: dict[str, Any] | None = None
        self.guests: dict[int, Guest] = {}
        """Globals of functions that bring their own, by the id of what they came as."""

    def make_guest(
        self, code: CodeType, base: dict[str, Any], closure: tuple[CellType, ...] | None
    ) -> FunctionType:
        """In place of `directview.wire.by_value.make_guest_function`."""
        guest = self.guests.get(id(base))
        if guest is None:
            guest = self.guests[id(base)] = Guest(base, self._namespace)
        guest.stores.update(_stored_globals(code))
        return FunctionType(code, guest, None, None, closure)

    def writing_guests(self) -> tuple[Guest, ...]:
        """Those whose functions have ``global`` statements."""
        return tuple([guest for guest in self.guests.values() if guest.stores])

    def make_function(
        self, code: CodeType, base: object, closure: tuple[CellType, ...] | None, takes: bool
    ) -> FunctionType:
        """In place of `directview.wire.by_value.make_main_function`."""
        if takes:
            if self._builtins is None:
                self._builtins = dict(PLAIN_BUILTINS)
            found = self._builtins
        else:
            found = PLAIN_BUILTINS
        function = make_function(self._namespace, found, code, None, closure)
        self.functions.append(function)
        return function

    def fill_function(self, function: FunctionType, state: State) -> None:
        """In place of `directview.wire.by_value.fill_main_function`."""
        self._withheld.update(state[2])
        names = fill_fields(function, state)
        if names and self._builtins is not None:
            self._names.update(names)
            # Now, and not at the end: unpickling may call functions that it has just made.
            self._builtins.update(names)

    def overlay(self, *, stays: bool, guests: tuple[Guest, ...]) -> Overlay:
        """What came along, when everything has been unpickled."""
        if self._builtins is None:
            if not self._withheld and not guests:
                return PLAIN
            return Overlay({}, PLAIN_BUILTINS, self._withheld, guests=guests)
        self._layouts.remake(self._builtins, self._names)
        return Overlay(self._names, self._builtins, self._withheld, stays=stays, guests=guests)


class _Unpickler(pickle.Unpickler):
    """Rebuilds functions from ``__main__`` through an `_Arrival`."""

    arrival: _Arrival

    def find_class(self, module: str, name: str) -> Any:
        if module == by_value.__name__:
            if name == "make_main_function":
                return self.arrival.make_function
            if name == "fill_main_function":
                return self.arrival.fill_function
            if name == "make_guest_function":
                return self.arrival.make_guest
        return super().find_class(module, name)


def _mapped(obj: Any) -> functools.partial[Any] | None:
    """`obj`, if it is what a map sends: a function to be called with items, and never put anywhere."""
    if type(obj) is functools.partial and obj.func in _MAPPERS and len(obj.args) == 1 and not obj.keywords:
        return obj
    return None


def _stored_globals(code: CodeType) -> set[str]:
    """Names that `code` sets by ``global``, and the code in it."""
    found: set[str] = set()
    if any([operation in code.co_code[::2] for operation in _STORES_GLOBAL]):
        found = {str(step.argval) for step in dis.get_instructions(code) if step.opcode in _STORES_GLOBAL}
    return found.union(*[_stored_globals(const) for const in code.co_consts if isinstance(const, CodeType)])


def _functions_of(value: Any) -> list[FunctionType]:
    if type(value) is FunctionType:
        return [value]
    if isinstance(value, type):
        return [member for member in vars(value).values() if type(member) is FunctionType]
    return _functions_of(type(value)) if type(value).__module__ == "__main__" else []


def _same(first: dict[str, Any], second: Any) -> bool:
    return len(first) == len(second) and all(
        [name in second and second[name] is value for name, value in first.items()]
    )


def _size(nbytes: int) -> str:
    if nbytes < 1000_000:
        return f"{nbytes / 1000:.0f} kB"
    if nbytes < 1000_000_000:
        return f"{nbytes / 1000_000:.0f} MB"
    return f"{nbytes / 1000_000_000:.1f} GB"
