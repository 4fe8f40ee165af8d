"""Our NamedTuple is as good as typing's, for what is done with it."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

import pytest

from ttybrokerd.root import lean

if TYPE_CHECKING:
    from typing import NamedTuple as Base
else:
    Base = lean.NamedTuple


class Lease(Base):
    """A class of the kind that the root side has."""

    name: str
    pid: int = 0
    uid: int = 7

    @property
    def who(self) -> str:
        return f"{self.name}:{self.pid}"


class Theirs(typing.NamedTuple):
    """The same."""

    name: str
    pid: int = 0
    uid: int = 7


def test_values_names_and_defaults_fill_the_fields() -> None:
    for lease in (Lease("a", 1), Lease("a", pid=1), Lease(pid=1, name="a"), Lease("a", 1, 7)):
        assert (lease.name, lease.pid, lease.uid) == tuple(lease) == ("a", 1, 7)
        assert lease.who == "a:1"
        assert lease == Lease("a", 1) != Lease("a", 2)
        assert hash(lease) == hash(Theirs("a", 1))
        assert repr(lease) == repr(Theirs("a", 1)).replace("Theirs", "Lease")
        assert lease._replace(pid=5) == ("a", 5, 7)
        assert isinstance(lease._replace(pid=5), Lease)


def test_it_can_be_matched() -> None:
    match Lease("a", 1):
        case Lease(name, pid, 7):
            assert (name, pid) == ("a", 1)
        case _:
            pytest.fail("it was not matched by its fields")


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((), {"pid": 1}), (("a", 1, 2, 3), {}), (("a",), {"name": "b"}), (("a",), {"x": 1})],
)
def test_what_is_not_its_fields_is_refused(
    values: tuple[object, ...], named: dict[str, object]
) -> None:
    for kind in (Lease, Theirs):
        with pytest.raises(TypeError):
            kind(*values, **named)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Lease("a")._replace(x=1)  # type: ignore[call-arg]


def test_a_field_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        Lease("a").pid = 5  # type: ignore[misc]
