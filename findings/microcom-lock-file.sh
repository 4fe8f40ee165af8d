#!/bin/sh
# Software:  microcom 2019.01.0-2, and for comparison minicom 2.8-2 (both Debian 12).
# Expected:  A lock file in /var/lock holds the process's number as ten decimal characters and a
#            newline (FHS 3.0, 5.9). With that, others can tell a lock whose process has ended.
# Seen:      microcom writes the number as eight binary bytes. When microcom was killed, minicom takes
#            what is left for a lock in force ("is locked"), for good; of a minicom that was killed it
#            says "Lockfile is stale", and goes on.
# Output:    microcom wrote 8 bytes, digits alone: False
#            after it was killed, minicom: Device PORT is locked.
#            minicom wrote 11 bytes, digits alone: True
#            after it was killed, minicom: Lockfile is stale. Overriding it..
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download microcom=2019.01.0-2 minicom=2.8-2 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
mkdir "$dir/lock"
export HOME="$dir" TERM=vt100
# with a /var/lock of its own
unshare -rm sh -c 'mount --bind "$HOME/lock" "$(readlink -f /var/lock)" && exec /usr/bin/python3 -' <<'END'
import os
import pty
import signal
import sys
import time
from pathlib import Path

os.chdir(os.environ["HOME"])
far, near = pty.openpty()
os.symlink(os.ttyname(near), "ttyX")
lock, port = Path("lock/LCK..ttyX"), str(Path("ttyX").absolute())


def run(program, option):
    """Start it on the port, kill it after 2 s, and return what it showed."""
    pid, screen = pty.fork()
    if pid == 0:
        os.execv(f"usr/bin/{program}", [program, option, port])
    time.sleep(2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return os.read(screen, 1000).decode("ascii", "replace").replace(port, "PORT")


said = []
for program, option in (("microcom", "-p"), ("minicom", "-D")):
    run(program, option)
    text = lock.read_bytes()
    print(f"{program} wrote {len(text)} bytes, digits alone: {text.strip().isdigit()}")
    said.append(run("minicom", "-D").splitlines()[0])
    print("after it was killed, minicom:", said[-1])
    lock.unlink()
sys.exit(not ("is locked" in said[0] and "stale" in said[1]))
END
