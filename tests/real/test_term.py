"""`ttybroker term` as people use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.daemon import Daemon
from support.rig import Rig
from support.screen import Screen

pytestmark = pytest.mark.root


def test_term_is_miniterm_on_the_port(rig: Rig, daemon: Daemon) -> None:
    with Screen(rig, "ttyS0", "115200") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"typed")
        assert rig.ports["ttyS0"].read(5) == b"typed"
        rig.ports["ttyS0"].write(b"answered")
        screen.shows(b"answered")
        assert screen.leave() == 0


def test_term_has_no_file_system_once_it_has_the_port(
    rig: Rig, daemon: Daemon, tmp_path: Path
) -> None:
    """Root's own process, which nothing else would keep from that file."""
    secret = tmp_path / "secret"
    secret.write_text("for nobody")
    with Screen(rig, "ttyS0", "115200") as screen:
        screen.shows(b"Quit: Ctrl+]")
        screen.type(b"typed")
        assert rig.ports["ttyS0"].read(5) == b"typed"  # from here on keys are miniterm's
        screen.type(b"\x14\x15")  # Ctrl+T Ctrl+U: upload
        screen.asks(b"File to upload: ")
        screen.type(f"{secret}\n".encode())
        screen.shows(b"Permission denied")
        screen.type(b"x")
        assert rig.ports["ttyS0"].read(1) == b"x"
        screen.type(b"\x14\x01")  # Ctrl+T Ctrl+A: encoding
        screen.asks(b"new encoding name")
        screen.type(b"koi8-r\n")  # a codec that is loaded only now
        screen.shows(b"output encoding: koi8-r")
        screen.type("я".encode())
        assert rig.ports["ttyS0"].read(1) == "я".encode("koi8-r")
        assert screen.leave() == 0
