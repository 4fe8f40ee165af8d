"""A run opens its port again: what it has already it joins. Others are refused as before."""

from __future__ import annotations

import pytest

from matrix.namespace import PORT
from matrix.stage import NODE, Stage

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    "script",
    [
        f"exec 3<{NODE} 4>{NODE}; stty raw -echo <&3; echo hello >&4; head -c 6 <&3",
        f"(stty raw -echo; head -c 6) <{NODE} & sleep 0.3; echo hello >{NODE}; wait",
        f"stty -F {NODE} raw -echo; exec 3<>{NODE}; stty -F {NODE} -a >/dev/null && "
        "stty raw -echo <&3; echo hello >&3; head -c 6 <&3",
    ],
)
def test_reader_and_writer_at_once(stage: Stage, line: list[str], script: str) -> None:
    process = stage.start(*line, "sh", "-c", script)
    stage.hear(b"hello")
    stage.say(b"answer")
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, b"answer", b"")
    stage.demand_free(2)


@pytest.mark.parametrize("how", [("--fd", "3", PORT), ("--stdio", PORT)])
def test_a_port_that_was_handed_over_can_be_opened_by_its_path(
    stage: Stage, bare: list[str], how: tuple[str, ...]
) -> None:
    program = stage.start(*bare, *how, "--", "sh", "-c", f"echo hello >{NODE}; exec sleep 60")
    stage.hear(b"hello")
    program.kill()
    assert program.communicate(timeout=10)[1] == b""
    stage.demand_free(2)


def test_another_run_is_refused_until_the_last_has_let_go(stage: Stage, line: list[str]) -> None:
    holder = stage.start(
        *line, "sh", "-c", f"exec 3<>{NODE} 4<>{NODE}; exec 3<&-; echo up >&4; read x"
    )
    stage.hear(b"up")
    refused = stage.run(*line, "sh", "-c", f"echo x >{NODE}")
    assert refused.status != 0 and "busy" in refused.err
    assert stage.program(holder.pid)
    assert len(stage.rig.lock_files()) == 1
    holder.communicate(b"\n", timeout=10)
    stage.demand_free(2)


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ("os.O_RDONLY", "os.O_RDONLY"),
        ("os.O_WRONLY | os.O_APPEND", "os.O_WRONLY | os.O_APPEND"),
        ("os.O_RDWR", "os.O_RDWR"),
    ],
)
def test_how_it_was_opened_is_kept(stage: Stage, bare: list[str], flags: str, kept: str) -> None:
    code = f"""
import fcntl, os
fd = os.open({NODE!r}, {flags})
print(fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND) == {kept})"""
    done = stage.run(*bare, PORT, "--", "python3", "-c", code)
    assert (done.status, done.out, done.err) == (0, "True\n", "")
    stage.demand_free(2)


def test_what_one_open_sets_the_next_of_the_same_run_finds(stage: Stage, line: list[str]) -> None:
    script = f"stty -F {NODE} 19200 raw -echo; stty -F {NODE} speed"
    done = stage.run(*line, "sh", "-c", script)
    assert (done.status, done.out, done.err) == (0, "19200\n", "")
    stage.demand_free(2)
