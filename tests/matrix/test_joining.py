"""A run opens its port again: what it has already it joins. Others are refused as before."""

from __future__ import annotations

import shutil

import pytest

from matrix.namespace import NAMED, PORT
from matrix.stage import NAMELESS, NODE, Installation, Stage
from ttybroker import client
from ttybroker.run.become import NO_PATHS

pytestmark = pytest.mark.root

VIA = pytest.mark.parametrize("via", ["auto", "notify", "pty"])
THREADS = f"""
import os, threading
def read():
    text = b""
    while len(text) < 6: text += os.read(reader, 6)
    print(text.decode(), end="")
reader = os.open("{NODE}", os.O_RDONLY | os.O_NOCTTY)
os.system("stty raw -echo < {NODE}")
thread = threading.Thread(target=read)
thread.start()
os.write(os.open("{NODE}", os.O_WRONLY | os.O_NOCTTY), b"hello")
thread.join()"""
JAVA = """
import java.io.*;
public class Two {
    public static void main(String[] words) throws Exception {
        InputStream in = new FileInputStream(words[0]);
        OutputStream out = new FileOutputStream(words[0]);
        out.write("hello".getBytes());
        byte[] answer = new byte[6];
        new DataInputStream(in).readFully(answer);
        System.out.print(new String(answer));
    }
}"""


@pytest.mark.parametrize(
    "script",
    [
        f"exec 3<{NODE} 4>{NODE}; stty raw -echo <&3; echo hello >&4; head -c 6 <&3",
        f"(stty raw -echo; head -c 6) <{NODE} & sleep 0.3; echo hello >{NODE}; wait",
        f"sh -c 'stty raw -echo; echo hello; head -c 6 >&3' 3>&1 <{NODE} >{NODE}",
        f"(exec 4<{NODE}; head -c 6 <&4) 3<>{NODE} & exec 5<>{NODE}; stty raw -echo <&5; "
        "sleep 0.3; echo hello >&5; wait",
        f"stty -F {NODE} raw -echo; exec 3<>{NODE}; stty -F {NODE} -a >/dev/null && "
        "stty raw -echo <&3; echo hello >&3; head -c 6 <&3",
    ],
)
@VIA
def test_reader_and_writer_at_once(stage: Stage, bare: list[str], via: str, script: str) -> None:
    demand_answer(stage, [*bare, "--via", via, PORT, "--", "sh", "-c", script], via)


@VIA
def test_two_threads_read_and_write_at_once(stage: Stage, bare: list[str], via: str) -> None:
    demand_answer(stage, [*bare, "--via", via, PORT, "--", "python3", "-c", THREADS], via)


def test_java_s_two_streams_read_and_write_at_once(stage: Stage, line: list[str]) -> None:
    if shutil.which("javac") is None:
        pytest.skip("no Java here")
    (stage.home / "Two.java").write_text(JAVA)
    script = 'stty -F "$0" raw -echo; exec java Two.java "$0"'
    demand_answer(stage, [*line, "sh", "-c", script, NODE], "auto")


def demand_answer(stage: Stage, words: list[str], via: str) -> None:
    """The program says hello, and shows what is answered."""
    process = stage.start(*words)
    stage.hear(b"hello")
    stage.say(b"answer")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"answer"), err
    assert err == b"" or (via == "pty" and err.count(b"\n") == 1)
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


OWN_PATHS = """
import os
for path in "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0":
    try: os.close(os.open(path, os.O_RDWR | os.O_NOCTTY))
    except OSError as error: os.write(2, error.strerror.encode() + b"\\n")
"""


@VIA
def test_the_path_of_its_descriptor_opens_it_or_one_line_says_why_not(
    stage: Stage, bare: list[str], launcher: str, via: str
) -> None:
    """The descriptor is the port itself, and the user has no right to its node."""
    done = stage.run(*bare, "--via", via, "--stdio", PORT, "--", "python3", "-c", OWN_PATHS)
    line = f"{launcher.split()[0]}: opens are not answered (--via pty): {NO_PATHS}\n"
    assert done.err == (line + "Permission denied\n" * 3 if via == "pty" else "")
    stage.demand_free(2)


@pytest.mark.parametrize("uid", [NAMELESS, NAMED], ids=["another run", "another user"])
def test_others_are_refused_until_the_last_has_let_go(
    stage: Stage, line: list[str], uid: int
) -> None:
    holder = stage.start(
        *line, "sh", "-c", f"exec 3<>{NODE} 4<>{NODE}; exec 3<&-; echo up >&4; read x"
    )
    stage.hear(b"up")
    refused = stage.run(*line, "sh", "-c", f"echo x >{NODE}", uid=uid)
    assert refused.status != 0 and "busy" in refused.err
    assert stage.program(holder.pid)
    assert len(stage.rig.lock_files()) == 1
    if stage.rig.daemons:
        with client.connect(str(stage.rig.socket)) as connection:
            (port,) = connection.ports((PORT,))
        assert port.holder is not None and port.holder.pid == holder.pid
    holder.communicate(b"\n", timeout=10)
    stage.demand_free(2)


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ("os.O_RDONLY", "os.O_RDONLY"),
        ("os.O_WRONLY | os.O_APPEND", "os.O_WRONLY | os.O_APPEND"),
        ("os.O_RDWR", "os.O_RDWR"),
        ("os.O_RDWR | os.O_SYNC", "os.O_RDWR | os.O_SYNC"),
        ("os.O_RDWR | os.O_DSYNC", "os.O_RDWR | os.O_SYNC"),
        ("os.O_RDWR | os.O_ASYNC", "os.O_RDWR"),
    ],
)
@pytest.mark.parametrize("via", ["auto", "notify"])
def test_how_it_was_opened_is_kept(
    stage: Stage, bare: list[str], flags: str, kept: str, via: str
) -> None:
    code = f"""
import fcntl, os
fd = os.open({NODE!r}, {flags})
mask = os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_ASYNC
print(fcntl.fcntl(fd, fcntl.F_GETFL) & mask == {kept})"""
    done = stage.run(*bare, "--via", via, PORT, "--", "python3", "-c", code)
    assert (done.status, done.out, done.err) == (0, "True\n", "")
    stage.demand_free(2)


@VIA
def test_what_one_open_sets_the_next_of_the_same_run_finds(
    stage: Stage, bare: list[str], via: str
) -> None:
    script = f"stty -F {NODE} 19200 raw -echo; stty -F {NODE} speed"
    done = stage.run(*bare, "--via", via, PORT, "--", "sh", "-c", script)
    assert (done.status, done.out) == (0, "19200\n")
    stage.demand_free(2)


def test_who_has_it_in_between_finds_what_was_before_and_so_does_the_run_after_him(
    stage: Stage, installation: Installation
) -> None:
    stage.rig.daemon(*stage.rig.arguments)
    run = installation.launcher("ttybroker run")
    script = f"stty -F {NODE} 19200; echo closed; read x; stty -F {NODE} speed"
    speed = ["sh", "-c", f"stty -F {NODE} speed"]
    before = stage.run(*run, *speed).out
    process = stage.start(*run, "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == b"closed\n"
    assert stage.run(*run, *speed, uid=NAMED).out == before != "19200\n"
    assert process.communicate(b"\n", timeout=10)[0].decode() == before


def test_a_thousand_threads_that_wait_have_it_in_turn(stage: Stage, bare: list[str]) -> None:
    code = f"""
import os, threading
threading.stack_size(65536)
done = []
few = threading.Semaphore(60)
def work():
    with few: os.close(os.open({NODE!r}, os.O_RDWR | os.O_NOCTTY))
    done.append(1)
threads = [threading.Thread(target=work) for _ in range(1000)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(done))"""
    process = stage.start(*bare, "--wait", "50", "--hold", PORT, "--", "python3", "-c", code)
    assert process.communicate(timeout=50) == (b"1000\n", b"")
    stage.demand_free(2)


def test_more_descriptors_than_a_lease_can_have_are_one_line(stage: Stage, bare: list[str]) -> None:
    code = f"""
import errno, os
kept = []
for _ in range(70):
    try: kept.append(os.open({NODE!r}, os.O_RDWR | os.O_NOCTTY))
    except OSError as error: print(errno.errorcode[error.errno])
print(len(kept))"""
    done = stage.run(*bare, PORT, "--", "python3", "-c", code)
    assert done.out == 6 * "EMFILE\n" + "64\n"
    assert done.err.count("\n") == 1 and "this session has it open 64 times already" in done.err
