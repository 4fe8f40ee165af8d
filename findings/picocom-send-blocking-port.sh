#!/bin/sh
# Software:  picocom 3.1-4 (Debian 12).
# Expected:  picocom opens the port with O_NONBLOCK and takes a read that would block for "nothing there"
#            (EAGAIN, read(2)). A command that sends a file (--send-cmd) changes nothing of that.
# Seen:      The command gets the port in blocking mode. It shares one open file description with picocom
#            (open(2), "Open file descriptions"), so O_NONBLOCK is gone from picocom's descriptor too. It
#            stays away when the command has ended, and from then on picocom's reads and writes can wait.
# Output:    before the command: O_NONBLOCK is True
#            after it: O_NONBLOCK is False
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download picocom=3.1-4 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
HOME="$dir" TERM=vt100 /usr/bin/python3 - <<'END'
import os
import pty
import re
import select
import signal
import sys
import termios
from pathlib import Path

os.chdir(os.environ["HOME"])
far, near = pty.openpty()
port = os.ttyname(near)
pid, screen = pty.fork()
if pid == 0:
    os.execv("usr/bin/picocom", ["picocom", "--nolock", "--send-cmd", "true", port])
termios.tcsetwinsize(screen, (24, 80))


def see(text):
    """Wait until picocom has shown it."""
    shown = b""
    while text not in shown:
        if not select.select([screen], [], [], 10)[0]:
            sys.exit(2)
        shown += os.read(screen, 1024)


def nonblocking():
    """Say whether picocom's descriptor of the port has O_NONBLOCK."""
    opened = Path(f"/proc/{pid}/fd")
    (name,) = (one.name for one in opened.iterdir() if int(one.name) > 2 and os.readlink(one) == port)
    flags = re.search(r"flags:\s*(\d+)", Path(f"/proc/{pid}/fdinfo/{name}").read_text())
    return bool(int(flags[1], 8) & os.O_NONBLOCK)


try:
    see(b"Terminal ready")
    before = nonblocking()
    os.write(screen, b"\x01\x13")  # C-a C-s
    see(b"*** file:")
    os.write(screen, b"any\r")
    see(b"*** exit status: 0 ***")
    after = nonblocking()
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(f"before the command: O_NONBLOCK is {before}")
print(f"after it: O_NONBLOCK is {after}")
sys.exit(not (before and not after))
END
