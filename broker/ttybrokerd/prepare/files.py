"""The policy's files: the one that is named, its drop-ins, and whether they can be trusted.

Drop-ins come with devices, or from configuration management. Their order and precedence are those
of systemd.unit(5). They are sorted by file name, whatever the directory. If two have the same name,
that in the first directory counts. A link to /dev/null there disables the other.
"""

from __future__ import annotations

import os
import time
from binascii import crc32

from ttybrokerd.prepare.policy import PolicyError, Text
from ttybrokerd.root import fresh, linux, trust

RUN = "/run/ttybroker/policy.d"
SHARED = "/usr/lib/ttybroker/policy.d"
MAX_BYTES = 1 << 20  # of all files together
MOST = 256  # drop-ins
YOUNG = 1_000_000_000  # ns: a clock's tick, and the granularity of old file systems
INSTALL = f"install it as {fresh.POLICY}, owned by root and writable by nobody else"
DROP_IN = "a drop-in and its directories must belong to root and be writable by nobody else"
IN_PLACE = (
    "see whether it says what you wrote; it and its directories must be writable by root alone"
)
COPY_IT = "copy the file, or mask the name by a link to /dev/null"


class Stamps(dict[str, tuple[int, ...]]):
    """What each path was before it was read. So a change during the read is noticed, too."""

    def take(self, path: str) -> None:
        """Note how this path is now, unless it was noted before."""
        if path not in self:
            directory = os.path.isdir(path) and not os.path.islink(path)
            self[path] = fresh.stamp(path, fresh.PLACE if directory else fresh.FILE)

    def take_listing(self, directory: str) -> None:
        """Note how a directory is now, with its content, or that it does not exist."""
        self[directory] = fresh.stamp(directory, fresh.FILE)

    def was_read(self, path: str, data: bytes) -> None:
        """Note the checksum of what was read, if the file or directory is very young.

        Another change so soon might leave its times as they are.
        """
        kind, *values, _ = self[path]
        # guard: young-text
        if kind == fresh.FILE and time.time_ns() - max(values[3], values[4]) < YOUNG:
            self[path] = (fresh.TEXT, *values, crc32(data))


def directories(path: str) -> list[str]:
    """Return where the drop-ins of the policy at `path` are, by precedence."""
    path = fresh.POLICY if path == fresh.SHIPPED else path
    beside = f"{path.removesuffix('.toml')}.d"
    if "\0" in path:  # which reading it tells
        return []
    return [beside, RUN, SHARED] if path == fresh.POLICY else [beside]


def unread(path: str) -> list[str]:
    """Return what lies among the drop-ins and is none by its name.

    A name with .toml and something behind it is a copy that an editor or dpkg(1) keeps.
    """
    return [
        f"{directory}/{name}"
        for directory in directories(path)
        if os.path.isdir(directory)
        for name in sorted(os.listdir(directory))
        if ".toml" not in name and not name.startswith(".")
    ]


def read(path: str, stamps: Stamps, mistakes: list[str], *, draft: bool = False) -> list[Text]:
    """Return the texts of the policy at `path`, in the order of their rules.

    Each file that is read is stamped. Mistakes in a file are added to `mistakes`. A draft may
    belong to anybody, and be anywhere.
    """
    texts = list[Text]()
    try:
        texts.append(Text(path, _policy(path, stamps, draft)))
    except PolicyError as error:
        mistakes += error.mistakes
    for file in _drop_ins(path, stamps, mistakes, draft):
        try:
            if (data := _drop_in(file, stamps, draft)) is not None:
                texts.append(Text(file, data, os.path.dirname(file) not in (RUN, SHARED)))
        except PolicyError as error:
            mistakes += error.mistakes
    if sum(len(text.data) for text in texts) > MAX_BYTES:
        mistakes.append(f"{path}: larger than {MAX_BYTES} bytes with its drop-ins")
    return texts


def read_draft(path: str) -> bytes:
    """Return the text of a file, whoever may change it. Raises PolicyError."""
    try:
        if not os.path.isfile(path) and os.path.exists(path):  # before it is opened
            raise ValueError("not a regular file")
        data = linux.read_file(path, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
    except OSError as error:
        raise PolicyError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise PolicyError(f"{path}: {error}") from None
    return data


def why_untrusted(path: str) -> str:
    """Return why the daemon would not read a policy there, and where to put it; "" if it would."""
    _, why = _way(path, Stamps())
    return why and f"{why}; {INSTALL}"


def _policy(path: str, stamps: Stamps, draft: bool) -> bytes:
    if path == fresh.SHIPPED:  # as long as there is no other
        stamps.take(fresh.POLICY)
        stamps.take(path)
        return read_draft(path)
    resolved, why = _way(path, stamps)
    if why and not draft:  # guard: trusted-policy-path
        raise PolicyError(f"{why}; {IN_PLACE if path == fresh.POLICY else INSTALL}")
    data = read_draft(path)
    if resolved in stamps:
        stamps.was_read(resolved, data)
    return data


def _drop_ins(path: str, stamps: Stamps, mistakes: list[str], draft: bool) -> list[str]:
    """Return the drop-ins that count, with masks, in their order."""
    chosen: dict[str, str] = {}
    for directory in directories(path):
        try:
            for name in _listed(directory, stamps, draft):
                chosen.setdefault(name, directory)  # guard: first-directory-counts
        except PolicyError as error:
            mistakes += error.mistakes
    if len(chosen) > MOST:
        mistakes.append(f"{path}: more than {MOST} drop-ins")
        return []
    return [f"{chosen[name]}/{name}" for name in sorted(chosen, key=os.fsencode)]


def _listed(directory: str, stamps: Stamps, draft: bool) -> list[str]:
    resolved = os.path.realpath(directory)
    stamps.take_listing(resolved)  # guard: stamp-of-drop-ins
    _, why = _way(directory, stamps)
    if why and not draft:  # guard: trusted-drop-in-directory
        raise PolicyError(f"{why}; {DROP_IN}")
    try:
        names = os.listdir(resolved)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.lexists(directory):
            return []
        # guard: link-to-no-directory
        raise PolicyError(f"{directory}: {error.strerror}") from None
    stamps.was_read(resolved, fresh.listing(names))
    return [name for name in names if name.endswith(".toml") and not name.startswith(".")]


def _drop_in(file: str, stamps: Stamps, draft: bool) -> bytes | None:
    """Return a drop-in's text, None if it is a link that masks the name.

    Raises PolicyError.
    """
    _, why = _way(file, stamps)
    if why and not draft:  # guard: trusted-drop-in
        raise PolicyError(f"{why}; {DROP_IN}")
    resolved, directory = os.path.realpath(file), os.path.realpath(os.path.dirname(file))
    if resolved == "/dev/null":
        return None
    if os.path.dirname(resolved) != directory:  # guard: no-link-out
        raise PolicyError(f"{file}: a link out of its directory, to {resolved}; {COPY_IT}")
    data = read_draft(file)
    if resolved in stamps:
        stamps.was_read(resolved, data)
    return data


def _way(path: str, stamps: Stamps) -> tuple[str, str]:
    """Return `path` with its links followed, and why others than root could change its target.

    The reason is "" if they could not. Every component is stamped.
    """
    way, resolved, why = list[str](), path, ""
    try:
        resolved = trust.resolve(path, way)
    except trust.Untrusted as error:
        why = str(error) if str(error).startswith(f"{path}:") else f"{path}: {error}"
    except (OSError, ValueError):  # which reading it will tell
        pass
    for component in way:
        stamps.take(component)
    return resolved, why
