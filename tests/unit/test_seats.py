"""Who sits at the machine: what is believed of logind's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.logind import Logind
from support.users import ALICE, BOB
from ttybrokerd.root import seats

pytestmark = pytest.mark.root


@pytest.fixture
def logind(safe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Logind:
    """Logind's files, in a directory that only root can change."""
    os.chmod(safe_dir, 0o755)
    made = Logind(safe_dir / "systemd")
    made.start()
    monkeypatch.setattr(seats, "TOP", str(made.top))
    return made


def sitting() -> dict[str, int]:
    return seats.look(lambda directory: None)


def test_the_user_of_the_active_session_of_each_seat_sits_there(logind: Logind) -> None:
    logind.sits(ALICE, "c1")
    logind.sits(BOB, "7", "seat-x_1")
    logind.sits(None, seat="seat2")
    assert sitting() == {"seat0": ALICE, "seat-x_1": BOB}


@pytest.mark.parametrize(
    "fields",
    [
        {"CLASS": "greeter"},
        {"CLASS": "lock-screen"},
        {"REMOTE": 1},
        {"ACTIVE": 0},
        {"STATE": "online"},
        {"STATE": "closing"},  # logged out, and a program of it goes on
        {"SEAT": "seat1"},
        {"SEAT": ""},
        {"UID": BOB},
    ],
)
def test_what_is_no_active_session_of_a_user_names_nobody(
    logind: Logind, fields: dict[str, object]
) -> None:
    logind.sits(ALICE)
    logind.session(ALICE, **fields)
    assert sitting() == {}


@pytest.mark.parametrize("field", ["UID", "ACTIVE", "STATE", "REMOTE", "CLASS", "SEAT"])
def test_a_session_without_a_field_names_nobody(logind: Logind, field: str) -> None:
    logind.sits(ALICE)
    path = logind.top / "sessions" / "1"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{field}=")]
    path.write_text("\n".join(kept))
    assert sitting() == {}


@pytest.mark.parametrize("uid", ["", "-1", "+5", "1_0", "4294967295", "x", "9" * 40, "9" * 9999])
def test_what_is_no_uid_names_nobody(logind: Logind, uid: str) -> None:
    logind.session(0, UID=uid)
    logind.write("seats/seat0", {"ACTIVE": "1", "ACTIVE_UID": uid})
    assert sitting() == {}


def test_a_session_is_looked_for_among_sessions_alone(logind: Logind) -> None:
    logind.session(ALICE)
    (logind.top / "sessions" / "1").rename(logind.top / "other")
    logind.write("seats/seat0", {"ACTIVE": "../other", "ACTIVE_UID": ALICE})
    assert sitting() == {}


@pytest.mark.parametrize("name", ["seats/seat0", "sessions/1"])
@pytest.mark.parametrize("wrong", ["owner", "mode", "fifo", "size", "noise", "directory"])
def test_a_file_that_cannot_be_believed_names_nobody(logind: Logind, name: str, wrong: str) -> None:
    logind.sits(ALICE)
    path = logind.top / name
    good = path.read_bytes()
    if wrong == "owner":
        os.chown(path, ALICE, 0)
    elif wrong == "mode":
        os.chmod(path, 0o666)
    elif wrong == "size":
        path.write_bytes(good + b"#" * seats.MOST)
    elif wrong == "noise":
        path.write_bytes(bytes(range(256)) * 9)
    else:
        path.unlink()
        os.mkfifo(path) if wrong == "fifo" else path.mkdir()
    assert sitting() == {}


def test_bad_files_of_one_seat_are_no_matter_of_another(logind: Logind) -> None:
    logind.sits(ALICE)
    (logind.top / "seats" / "seat1").write_bytes(b"\xff\0" * 99)
    os.symlink("/dev/zero", logind.top / "seats" / "seat2")
    assert sitting() == {"seat0": ALICE}


@pytest.mark.parametrize("name", ["", "seats", "sessions"])
def test_where_an_end_would_not_be_heard_nobody_sits(logind: Logind, name: str) -> None:
    logind.sits(ALICE)
    unheard = str(logind.top / name).rstrip("/")

    def hear(directory: str) -> None:
        if directory == unheard:
            raise OSError("no watch is left")

    assert sitting() == {"seat0": ALICE}
    assert seats.look(hear) == {}


def test_without_logind_nobody_sits(logind: Logind) -> None:
    logind.top.rename(logind.top.with_name("gone"))
    assert sitting() == {}
