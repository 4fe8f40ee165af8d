"""Requests that wait for a device that is not there: it is looked for when a name has come.

The table has these requests (`Table.miss`). The directories through which their names lead are
watched. Only root can make a name there. So others cause looks by their requests alone, which are
bounded.
"""

from __future__ import annotations

import errno
import os
import time

from ttybrokerd.root import TYPE_CHECKING, linux
from ttybrokerd.root.connection import OpenRequest
from ttybrokerd.root.loop import READ
from ttybrokerd.root.paced import REST, TURN
from ttybrokerd.root.refusal import Absent, Refusal

if TYPE_CHECKING:
    from ttybrokerd.root.answers import Answers
    from ttybrokerd.root.ask import Ask
    from ttybrokerd.root.device import Devices
    from ttybrokerd.root.judge import Judge
    from ttybrokerd.root.leases import Leases
    from ttybrokerd.root.loop import Loop

# Seconds of rest that may be owed. The names of one device come one after another. So the first
# look often comes too early, and then the next one must not wait.
AHEAD = 0.5


class Arrivals:
    """Looks for the devices that are not there."""

    def __init__(
        self, loop: Loop, devices: Devices, judge: Judge, leases: Leases, answers: Answers
    ) -> None:
        self._devices = devices
        self._judge = judge
        self._leases = leases
        self._answers = answers
        self._misses = 0  # the table's `misses` at the last look
        self._left: list[Ask] = []  # those for whom the look under way is still to look
        self._news = False
        self._rested = 0.0  # when it will have rested for all its looks
        self._again_at: float | None = None  # when to look although nothing is new
        self._watched: set[int] = set()
        self._inotify = linux.inotify()
        loop.add(self._inotify, READ, self._on_names)

    def fileno(self) -> int:
        """Return the inotify descriptor."""
        return self._inotify

    def close(self) -> None:
        """Close the inotify descriptor."""
        os.close(self._inotify)

    def look_soon(self) -> None:
        """Look again, because a name may mean something else now."""
        self._news = True

    def tick(self) -> float | None:
        """Look, if there is something new; return the seconds until the next look, or None."""
        table = self._leases.table
        missing = table.missing()
        if not missing:
            self._watch_nothing()
            self._left = []
            return None
        now = time.monotonic()
        if not self._left:
            if not self._due():
                return self._until_again(now)
            if now < self._rested - AHEAD:  # guard: paced-looks
                return self._rested - AHEAD - now
            self._news, self._misses, self._again_at = False, table.misses, None
            self._left = missing
        self._look(set(missing), now + TURN)
        end = time.monotonic()
        self._rested = max(self._rested, now) + (1 + REST) * (end - now)
        if self._left:
            return 0.0
        return max(self._rested - AHEAD - end, 0.0) if self._due() else self._until_again(end)

    def _look(self, missing: set[Ask], until: float) -> None:
        """Go on with the look under way: for one request at least, and not beyond `until`."""
        while self._left:
            ask = self._left.pop(0)
            if ask in missing:  # guard: no-look-for-who-left
                assert isinstance(ask, OpenRequest)
                self._look_for(ask)
                if time.monotonic() >= until:  # guard: time-of-a-look
                    return

    def _until_again(self, now: float) -> float | None:
        return None if self._again_at is None else max(self._again_at - now, 0.0)

    def _due(self) -> bool:
        # guard: look-at-the-unnamed
        again = self._again_at is not None and self._again_at <= time.monotonic()
        return again or self._news or self._leases.table.misses != self._misses

    def _look_for(self, request: OpenRequest) -> None:
        request.client.look_up_groups()
        # guard: judge-who-waited-for-a-device
        refusal = self._judge.judge_waiting(request)
        seen = None
        try:
            if refusal is None:
                ruling = self._judge.of(request.client.identity)
                seen = ruling.look(request.target, request.rule)
        except Absent as absent:
            if absent.again is not None and self._again_at is None:
                self._again_at = time.monotonic() + absent.again
            refusal = self._watch(self._devices.directories(request.target))
            if refusal is None:
                return
        except Refusal as other:
            refusal = other
        except OSError as error:  # guard: failed-look-is-a-refusal
            refusal = Refusal.out_of_means(error)
        self._leases.table.found(request, time.monotonic())
        try:
            if refusal is not None:
                raise refusal
            assert seen is not None
            self._leases.ask(request, seen)
        except Refusal as no:
            self._answers.refuse(request.client, request.name, no, request.rule)

    def _watch(self, directories: set[str]) -> Refusal | None:
        """Hear of names that come into these directories; return why not, None if that works.

        A name that came before a directory was watched was not heard. So there is another look.
        """
        for directory in directories:
            try:
                watch = linux.watch_arrivals(self._inotify, directory)
            except OSError as error:
                # guard: nobody-waits-unwatched
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    return Refusal.out_of_means(error)
                # guard: look-for-a-lost-directory
                self._news = True  # the directory went meanwhile
                continue
            # guard: look-after-a-new-watch
            self._news = self._news or watch not in self._watched
            self._watched.add(watch)
        return None

    def _watch_nothing(self) -> None:
        while self._watched:
            linux.unwatch(self._inotify, self._watched.pop())

    def _on_names(self) -> None:
        linux.read_watches(self._inotify)
        self._news = True
