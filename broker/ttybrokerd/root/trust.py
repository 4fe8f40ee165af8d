"""Files that decide what root does: only root may be able to change what their path leads to."""

from __future__ import annotations

import errno
import os
import stat

from ttybrokerd.root import linux

MAX_LINKS = 40  # as the kernel: path_resolution(7)

_directories: set[str] = set()  # safe ones, of aliases: not more than policies name


class Untrusted(PermissionError):
    """Somebody but root could change what this path leads to; the text says where and why.

    It gives no advice: a chmod that suits a file of root's own would break /tmp or a home.
    """


def resolve(path: str, way: list[str] | None = None) -> str:
    """Return `path` with every link followed, after each component was found safe.

    Each component, links too, is added to `way`. If one is not safe, those before it are added all
    the same.

    A directory or file is safe when root owns it and neither group nor others may write to it. A
    sticky directory such as /tmp is not safe, because names can be made in it. A link is safe when
    root owns it, because the directory that holds it is safe. A device node at the end is not
    judged: it belongs to whom udev gives it.

    Raises Untrusted; OSError ENOENT and the like; OSError ELOOP on too many links.
    """
    if not path.startswith("/"):
        raise Untrusted(f"{path}: not an absolute path")
    pending = path.split("/")[::-1]
    at, links = "", 0
    way = [] if way is None else way
    way.append("/")
    _judge("/", os.lstat("/"))
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = at.rpartition("/")[0]
            continue
        here = f"{at}/{part}"
        way.append(here)
        status = os.lstat(here)
        _judge(here, status)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, f"{path}: too many levels of symbolic links")
            target = os.readlink(here)
            pending.extend(target.split("/")[::-1])
            at = "" if target.startswith("/") else at
        else:
            at = here
    return at or "/"


def _judge(path: str, status: os.stat_result) -> None:
    if stat.S_ISCHR(status.st_mode):
        return
    if status.st_uid != 0:  # guard: root-owned-path
        raise Untrusted(f"{path}: owned by uid {status.st_uid}, not root")
    if status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode):  # guard: writable-by-others
        mode = stat.S_IMODE(status.st_mode)
        raise Untrusted(f"{path}: others than root may write (mode {mode:o})")


def _directory(path: str) -> str:
    """Return the directory `path`, resolved. One without links is judged once for all."""
    if path in _directories:
        return path
    resolved = resolve(path)
    if resolved == path:  # guard: links-are-followed-anew
        _directories.add(path)
    return resolved


def resolve_device(path: str) -> str:
    """Resolve as `resolve` a path that is asked for again and again.

    udev makes and removes the last component. Its directory is judged only the first time, if no
    link leads to it. A link in that directory is judged each time.
    """
    parent, _, base = path.rpartition("/")
    here = f"{_directory(parent or '/').rstrip('/')}/{base}"
    return resolve(here) if stat.S_ISLNK(os.lstat(here).st_mode) else here  # guard: judge-each-link


def read(path: str, limit: int) -> bytes:
    """Return the content of a file that only root can change, at most `limit` bytes.

    Raises Untrusted or OSError as `resolve`. Raises ValueError if it is not a regular file, or too
    large.
    """
    resolved = resolve(path)  # guard: trusted-plan-path
    if not stat.S_ISREG(os.lstat(resolved).st_mode):  # before it is opened: a device would notice
        raise ValueError("not a regular file")
    data = linux.read_file(resolved, limit + 1)
    if len(data) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return data
