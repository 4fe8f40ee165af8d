"""What the root side has of `socket`, `signal`, `functools`, `collections` and `typing`: their C
halves, and a Counter and a NamedTuple that are no more than is used. The other halves are enums,
annotations and classes written as text, which every start would pay for, and never use.
"""

from __future__ import annotations

import _socket as socket

__all__ = [
    "TYPE_CHECKING", "Counter", "NamedTuple", "defaultdict", "deque", "partial", "signal", "socket",
]  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections import Counter, defaultdict, deque
    from functools import partial
    from typing import NamedTuple
else:
    import _signal as signal
    from _collections import _tuplegetter, defaultdict, deque
    from _functools import partial

    class Counter(dict):
        """As collections' for counting: what is not in it is 0, and to ask does not put it in."""

        def __missing__(self, key):
            return 0

    class NamedTuple(tuple):
        """As typing's: annotations are its fields, in their order; a value is a default."""

        __slots__ = ()
        _fields = ()
        _defaults = {}  # noqa: RUF012

        def __init_subclass__(cls):
            cls._fields = cls.__match_args__ = tuple(cls.__annotations__)
            cls._defaults = {name: vars(cls)[name] for name in cls._fields if name in vars(cls)}
            for at, name in enumerate(cls._fields):
                setattr(cls, name, _tuplegetter(at, None))

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._complete(values, named)
            return super().__new__(cls, values)

        @classmethod
        def _complete(cls, values, named):
            given = {**dict(zip(cls._fields, values, strict=False)), **named}
            whole = {**cls._defaults, **given}
            if len(given) != len(values) + len(named) or whole.keys() != set(cls._fields):
                raise TypeError(f"{cls.__name__}: not exactly its fields: {cls._fields}")
            return [whole[name] for name in cls._fields]

        def _replace(self, **named):
            return type(self)(**{**dict(zip(self._fields, self, strict=True)), **named})

        def __repr__(self):
            shown = (f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(shown)})"
