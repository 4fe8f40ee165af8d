"""The filter of system calls is tried, on this interpreter and C library, before it is used."""

from __future__ import annotations

import pytest

from ttybrokerd.prepare import filter, selftest, syscalls


def test_the_filter_lets_this_interpreter_live() -> None:
    assert selftest.refused(*filter.build()) is None
    assert filter.tried() == filter.build()


@pytest.mark.parametrize(
    "name",
    ["clone", "set_robust_list", "openat", "mmap", "setitimer", "flock", "epoll_create1",
     "memfd_create", "inotify_add_watch", "pidfd_open", "recvmsg", "getdents64"],
)  # fmt: skip
def test_a_filter_that_would_end_this_interpreter_is_refused_with_the_name_of_the_call(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    less = tuple(call for call in syscalls.CALLS if call.name != name)
    assert less != syscalls.CALLS
    monkeypatch.setattr(syscalls, "CALLS", less)
    with pytest.raises(filter.NoFilter, match=f"lacks {name}, which this Python or C library"):
        filter.tried()


def test_an_argument_that_the_filter_does_not_permit_is_found_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TCGETS2, say, where the C library was TCGETS before."""
    ioctls = [call for call in syscalls.CALLS if call.name == "ioctl"]
    less = tuple(call for call in syscalls.CALLS if "TCGETS" not in call.why)
    assert len(ioctls) > 3
    monkeypatch.setattr(syscalls, "CALLS", less)
    with pytest.raises(filter.NoFilter, match="lacks ioctl"):
        filter.tried()
