"""Completion of commands, options and live port names, in the real shells."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.rig import Rig
from support.waiting import TIMEOUT, wait_readable
from ttybroker import cli

pytestmark = pytest.mark.root

FILES = Path(__file__).parents[2] / "packaging" / "completions"
PORTS = {"ttyS0", "ttyS1"}

Complete = Callable[[str], set[str]]


def environment(socket: Path, home: Path) -> dict[str, str]:
    """A `ttybroker` on the PATH, and where it asks."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "TTYBROKER_SOCKET": str(socket),
        "LC_ALL": "C.UTF-8",
        "TERM": "vt100",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home.parent / "config"),
    }


def bash(line: str, socket: Path, home: Path) -> set[str]:
    (home / "rc").write_text(f"""
        . /usr/share/bash-completion/bash_completion; . {FILES}/ttybroker.bash
        PS1= COMP_WORDBREAKS=" "
        tell() {{ printf %s "$READLINE_LINE" > new; mv new told; exit; }}
        bind -x '"\\C-x\\C-t":tell'; bind '"\\t":insert-completions'
        touch ready
    """)
    return typed(["bash", "--noprofile", "--rcfile", str(home / "rc"), "-i"], line, socket, home)


def zsh(line: str, socket: Path, home: Path) -> set[str]:
    (home / ".zshrc").write_text(f"""
        fpath=({FILES} $fpath); autoload -Uz compinit; compinit -u -d {home}/dump
        zstyle ':completion:*' completer _all_matches _complete
        zstyle ':completion:*' insert true; PS1=
        tell() {{ print -rn -- "$BUFFER" > new; mv new told; exit }}
        zle -N tell; bindkey '^X^T' tell; bindkey '^I' complete-word
        touch ready
    """)
    return typed(["zsh", "-d", "-i"], line, socket, home)


def fish(line: str, socket: Path, home: Path) -> set[str]:
    script = f"source {FILES}/ttybroker.fish; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "-N", "-c", script],
        env=environment(socket, home),
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert done.stderr == ""
    return {line.split("\t")[0] for line in done.stdout.splitlines()}


def typed(shell: list[str], line: str, socket: Path, home: Path) -> set[str]:
    """Type the line and TAB in an interactive shell whose TAB inserts all that matches, and then
    the key that makes it tell what stands there: the words that it inserted."""
    screen, keyboard = pty.openpty()
    process = subprocess.Popen(
        shell,
        stdin=keyboard,
        stdout=keyboard,
        stderr=keyboard,
        env=environment(socket, home),
        cwd=home,
        start_new_session=True,
    )
    os.close(keyboard)
    seen = b""
    try:
        while not (home / "ready").exists():
            wait_readable(screen, f"{shell[0]} to be ready, got {seen!r}")
            seen += os.read(screen, 4096)
        os.write(screen, line.encode() + b"\t\x18\x14")
        with contextlib.suppress(OSError):  # EIO: it and all that it started have ended
            while True:
                wait_readable(screen, f"{shell[0]} to tell and end, got {seen!r}")
                seen += os.read(screen, 4096)
        process.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait(TIMEOUT)
        os.close(screen)
    assert b"ttybroker:" not in seen and b"not found" not in seen
    words = (home / "told").read_text().split(" ")
    return set(words[line.count(" ") :]) - {""}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """What XDG_CONFIG_HOME is in the shells."""
    return tmp_path / "config"


@pytest.fixture(params=[bash, zsh, fish], ids=["bash", "zsh", "fish"])
def complete(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path) -> Iterator[Complete]:
    (tmp_path / "some-file").touch()

    def complete(line: str) -> set[str]:
        home = tmp_path / "home"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        found = request.param(line, rig.socket, home)
        assert isinstance(found, set)
        return found

    yield complete


@pytest.mark.parametrize(
    "line",
    [
        "ttybroker check ",
        "ttybroker list tty",
        "ttybroker revoke tty",
        "ttybroker term ",
        "ttybroker term --parity even tty",
        "ttybroker run tty",
        "ttybroker run --stdio ",
        "ttybroker run ttyS7 --fd 3 ",
        "ttyrun ",
        "ttyrun --wait 5 tty",
    ],
)
def test_ports_are_those_that_are_there(complete: Complete, daemon: Daemon, line: str) -> None:
    assert complete(line) == PORTS


def options_of(*command: str, module: str = "ttybroker.cli") -> set[str]:
    """The long options of its --help."""
    done = subprocess.run(
        [sys.executable, "-m", module, *command, "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    found = set(re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", done.stdout))
    if command == ("term",):
        assert found > {"--no-hex", "--no-quiet", "--baudrate", "--rtscts"}
    return found


def test_every_command_is_completed(complete: Complete) -> None:
    assert {word for word in complete("ttybroker ") if word[0] != "-"} == set(cli._COMMANDS)
    assert complete("ttybroker re") == {"revoke"}


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_every_option_of_a_command_is_completed(complete: Complete, command: str) -> None:
    assert complete(f"ttybroker {command} --") - {"--"} == options_of(command)


def test_every_option_of_the_daemon_is_completed(complete: Complete) -> None:
    assert complete("ttybrokerd --") == options_of(module="ttybrokerd.daemon") | {"--help"}
    assert complete("ttybrokerd --policy ../some-") == {"../some-file"}


def test_every_option_without_a_command_is_completed(complete: Complete) -> None:
    assert complete("ttybroker --") == options_of()


def test_values_and_the_other_command(complete: Complete) -> None:
    assert "root" in complete("ttybroker check --user roo")
    assert complete("ttyrun --st") == {"--stdio"}
    assert complete("ttyrun --via n") == {"notify"}


def test_options_of_term_have_their_words(complete: Complete) -> None:
    assert complete("ttybroker term --timestamps ") == {"iso", "delta", "none"}
    assert complete("ttybroker term -f ") == {"hard", "soft", "none"}
    assert complete("ttybroker term ttyS0 --eol c") == {"cr", "crlf"}


def test_profiles_are_those_of_the_file(complete: Complete, config: Path) -> None:
    (config / "ttybroker").mkdir(parents=True)
    (config / "ttybroker/term.toml").write_text("[ttyS0]\nbaud = 300\n[profile.lab]\n[profile.x]\n")
    assert complete("ttybroker term --profile ") == {"lab", "x"}


def test_behind_the_dashes_it_is_the_programs_line(complete: Complete, daemon: Daemon) -> None:
    assert "strace" in complete("ttyrun ttyS0 -- strac")
    assert not complete("ttyrun ttyS0 -- cat tty") & PORTS


def test_without_a_broker_there_is_silence(complete: Complete) -> None:
    assert not complete("ttybroker check tty") & PORTS
