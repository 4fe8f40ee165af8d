"""A board that is flashed: its USB end is in its firmware, so it comes back as another device."""

from __future__ import annotations

from support.ptys import Pty
from support.rig import Rig


class Board:
    """The port "board" of a rig: an alias by a link, which a daemon that starts now knows."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._link = rig.base / "board"
        self._pty = rig.port("old")
        rule = f'[[rule]]\nport = "board"\ndevice = "{self._link}"\nclass = "pty"\nallow = ["*"]'
        rig.rules = [rule]
        self._link.symlink_to(self._pty.path)

    def unplug(self) -> None:
        """Take it away: its link, and then its device, which is hung up."""
        self._link.unlink()
        self._pty.close()

    def plug(self) -> Pty:
        """Have it back under another number; the link leads there."""
        self._pty = self._rig.ports["new"] = Pty(far=True)
        self._link.symlink_to(self._pty.path)
        return self._pty

    def close(self) -> None:
        """Take its link away."""
        self._link.unlink()
