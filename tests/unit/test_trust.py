"""The walk along a path that decides what root does: nobody but root may be able to bend it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ttybrokerd.root import trust
from ttybrokerd.root.trust import Untrusted, read, resolve, resolve_device

pytestmark = pytest.mark.root

STRANGER = 60123
NULL = os.makedev(1, 3)


@pytest.fixture
def tree(safe_dir: Path) -> Path:
    """safe_dir/a/b/file, all root's, mode 755 and 644."""
    for directory in (safe_dir, safe_dir / "a", safe_dir / "a/b"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
    (safe_dir / "a/b/file").write_text("text")
    (safe_dir / "a/b/file").chmod(0o644)
    return safe_dir


def no(path: Path | str) -> str:
    """Why the path is not trusted, by `resolve` and by `read` alike."""
    reasons = []
    for walk in (resolve, lambda path: read(path, 100)):
        with pytest.raises(Untrusted) as caught:
            walk(str(path))
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
    return reasons[0]


@pytest.mark.parametrize(
    "spelling", ["a/b/file", "a//b/./file", "a/../a/b/file", "a/b/../../a/b/file", "./a/b/file"]
)
def test_roots_own_path_is_resolved_however_it_is_spelled(tree: Path, spelling: str) -> None:
    assert resolve(f"{tree}/{spelling}") == f"{tree}/a/b/file"
    assert read(f"{tree}/{spelling}", 100) == b"text"


def test_the_top_is_the_top() -> None:
    assert resolve("/") == "/"
    assert resolve("/..") == "/"
    assert resolve("/../../run/.") == os.path.realpath("/run")


def test_a_relative_path_is_not_trusted() -> None:
    assert no("a/b") == "a/b: not an absolute path"
    assert no("") == ": not an absolute path"


@pytest.mark.parametrize("which", ["", "a", "a/b", "a/b/file"])
@pytest.mark.parametrize("mode", [0o757, 0o777, 0o775, 0o770, 0o702, 0o720, 0o1777, 0o1775])
def test_what_others_may_write_is_not_trusted_anywhere_on_the_way(
    tree: Path, which: str, mode: int
) -> None:
    bad = tree / which
    bad.chmod(mode)
    assert no(tree / "a/b/file") == f"{bad}: others than root may write (mode {mode:o})"


@pytest.mark.parametrize("which", ["", "a", "a/b", "a/b/file"])
def test_what_another_owns_is_not_trusted_anywhere_on_the_way(tree: Path, which: str) -> None:
    bad = tree / which
    os.chown(bad, STRANGER, 0)
    assert no(tree / "a/b/file") == f"{bad}: owned by uid {STRANGER}, not root"


def test_a_group_that_may_only_read_does_no_harm(tree: Path) -> None:
    os.chown(tree / "a/b/file", 0, STRANGER)
    (tree / "a/b/file").chmod(0o640)
    assert read(f"{tree}/a/b/file", 100) == b"text"


def test_dot_dot_does_not_lead_around_a_bad_directory(tree: Path) -> None:
    (tree / "bad").mkdir()
    (tree / "bad").chmod(0o777)
    assert no(f"{tree}/bad/../a/b/file").startswith(f"{tree}/bad: others than root")


@pytest.mark.parametrize("target", ["a/b/file", "./a/../a/b/file", "{tree}/a/b/file", "via"])
def test_roots_own_links_are_followed(tree: Path, target: str) -> None:
    (tree / "via").symlink_to("a/b/file")
    (tree / "link").symlink_to(target.format(tree=tree))
    assert resolve(f"{tree}/link") == f"{tree}/a/b/file"


def test_a_link_is_followed_from_where_it_lies_and_dot_dot_from_where_it_leads(tree: Path) -> None:
    (tree / "a/up").symlink_to("../a/b")
    (tree / "down").symlink_to("a/b")
    assert resolve(f"{tree}/a/up/file") == f"{tree}/a/b/file"
    assert resolve(f"{tree}/down/../b/file") == f"{tree}/a/b/file"


def test_a_link_that_another_owns_is_not_trusted(tree: Path) -> None:
    (tree / "link").symlink_to("a/b/file")
    os.chown(tree / "link", STRANGER, STRANGER, follow_symlinks=False)
    assert no(tree / "link").startswith(f"{tree}/link: owned by uid {STRANGER}")


def test_a_good_link_to_a_bad_place_is_not_trusted(tree: Path) -> None:
    (tree / "bad").mkdir()
    (tree / "bad/file").write_text("")
    (tree / "bad").chmod(0o1777)
    (tree / "a/link").symlink_to("../bad/file")
    assert no(tree / "a/link").startswith(f"{tree}/bad: others than root")


def test_a_good_file_reached_through_a_bad_directory_of_links_is_not_trusted(tree: Path) -> None:
    (tree / "bad").mkdir()
    (tree / "bad/link").symlink_to(tree / "a/b/file")
    (tree / "bad").chmod(0o777)
    (tree / "entry").symlink_to("bad/link")
    assert no(tree / "entry").startswith(f"{tree}/bad: others than root")


def test_links_in_a_circle_end(tree: Path) -> None:
    (tree / "one").symlink_to("two")
    (tree / "two").symlink_to("one")
    (tree / "deep").symlink_to("deep/x")
    for name in ("one", "deep"):
        with pytest.raises(OSError) as caught:
            resolve(f"{tree}/{name}")
        assert caught.value.errno == errno.ELOOP
        assert not isinstance(caught.value, Untrusted)


def test_as_many_links_as_the_kernel_follows_are_followed(tree: Path) -> None:
    (tree / "0").symlink_to("a/b/file")
    for number in range(1, trust.MAX_LINKS + 1):
        (tree / str(number)).symlink_to(str(number - 1))
    assert resolve(f"{tree}/{trust.MAX_LINKS - 1}") == f"{tree}/a/b/file"
    with pytest.raises(OSError) as caught:
        resolve(f"{tree}/{trust.MAX_LINKS}")
    assert caught.value.errno == errno.ELOOP


def test_a_path_that_leads_nowhere_says_so(tree: Path) -> None:
    (tree / "dangling").symlink_to("nowhere")
    for name in ("nowhere", "dangling", "a/nowhere/b"):
        with pytest.raises(FileNotFoundError):
            resolve(f"{tree}/{name}")
    with pytest.raises(NotADirectoryError):
        resolve(f"{tree}/a/b/file/x")


@pytest.mark.parametrize("walk", [resolve, resolve_device])
def test_a_device_node_at_the_end_may_be_anybodys(tree: Path, walk: Callable[[str], str]) -> None:
    os.mknod(tree / "node", 0o020666, NULL)
    os.chmod(tree / "node", 0o666)
    os.chown(tree / "node", STRANGER, STRANGER)
    (tree / "a/link").symlink_to("../node")
    assert walk(f"{tree}/node") == f"{tree}/node"
    assert walk(f"{tree}/a/link") == f"{tree}/node"


@pytest.mark.parametrize("which", ["", "a"])
def test_the_way_to_a_device_is_judged_like_any_other(tree: Path, which: str) -> None:
    os.mknod(tree / "a/node", 0o020666, NULL)
    (tree / which).chmod(0o777)
    with pytest.raises(Untrusted):
        resolve_device(f"{tree}/a/node")


def test_a_device_that_comes_and_goes_is_found_anew_each_time(tree: Path) -> None:
    with pytest.raises(FileNotFoundError):
        resolve_device(f"{tree}/a/by-id")
    for target in ("../one", "../two"):
        os.mknod(tree / target[3:], 0o020600, NULL)
        (tree / "a/by-id").unlink(missing_ok=True)
        (tree / "a/by-id").symlink_to(target)
        assert resolve_device(f"{tree}/a/by-id") == f"{tree}/{target[3:]}"
    os.chown(tree / "a/by-id", STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(Untrusted):
        resolve_device(f"{tree}/a/by-id")


def test_a_directory_that_is_a_link_is_followed_anew_each_time(tree: Path) -> None:
    """Root may put another bench in the place of the first."""
    for bench in ("one", "two"):
        (tree / bench).mkdir(mode=0o755)
        os.mknod(tree / bench / "node", 0o020600, NULL)
        (tree / "bench").unlink(missing_ok=True)
        (tree / "bench").symlink_to(bench)
        assert resolve_device(f"{tree}/bench/node") == f"{tree}/{bench}/node"


def test_a_device_at_the_top_has_a_plain_path() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        resolve_device("/ttybroker-no-such-node")
    assert caught.value.filename == "/ttybroker-no-such-node"


def fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    path.chmod(0o700)


def device(path: Path) -> None:
    os.mknod(path, 0o020600, os.makedev(1, 5))  # /dev/zero: never ends


@pytest.mark.parametrize("make", [Path.mkdir, fifo, listener, device])
@pytest.mark.usefixtures("no_leak")
def test_only_a_regular_file_is_read_and_anything_else_is_not_even_opened(
    tree: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tree / "thing")
    monkeypatch.setattr(trust.linux, "read_file", lambda *_: pytest.fail("opened"))
    with pytest.raises(ValueError, match=r"^not a regular file"):
        read(f"{tree}/thing", 100)


@pytest.mark.usefixtures("no_leak")
def test_a_file_is_read_up_to_its_limit_and_not_beyond(tree: Path) -> None:
    path = tree / "a/b/file"
    path.write_text("x" * 100)
    assert read(str(path), 100) == b"x" * 100
    with pytest.raises(ValueError, match="larger than 99 bytes"):
        read(str(path), 99)
