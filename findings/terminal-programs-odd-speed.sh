#!/bin/sh
# Software:  minicom 2.8-2, screen 4.9.0-4, plink of putty-tools 0.78-2+deb12u2, microcom of
#            busybox-static 1.35.0-4+deb12u1+b1 (all Debian 12).
# Expected:  The line runs at the speed that was asked for (minicom(1) -b, screen(1) <baud_rate>,
#            plink(1) -sercfg, `busybox microcom --help` -s), or the program says that it does not.
# Seen:      Asked for 250000, which is no constant of termios(3), all four take the port, say
#            nothing, and run at another speed, each at one of its own. (picocom 3.1 and tio 2.5 run
#            at 250000; microcom 2019.01.0 and C-Kermit refuse it.) plink tells with -v.
# Output:    minicom: runs at 115200
#            screen: runs at 9600
#            plink: runs at 230400
#            busybox: runs at 38400
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download minicom=2.8-2 screen=4.9.0-4 \
            putty-tools=0.78-2+deb12u2 busybox-static=1:1.35.0-4+deb12u1+b1 libutempter0=1.2.1-3 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
mkdir -m 700 "$dir/lock" "$dir/screens"
LD_LIBRARY_PATH=$(echo "$dir"/usr/lib/*-linux-*)
export LD_LIBRARY_PATH HOME="$dir" SCREENDIR="$dir/screens" TERM=vt100
# with a /var/lock of its own, for the lock files of two of them
unshare -rm sh -c 'mount --bind "$HOME/lock" "$(readlink -f /var/lock)" && exec /usr/bin/python3 -' <<'END'
import os
import pty
import signal
import subprocess
import sys
import time

COMMANDS = (
    "usr/bin/minicom -D PORT -b 250000",
    "usr/bin/screen -D -m PORT 250000",
    "usr/bin/plink -serial PORT -sercfg 250000,8,n,1,N",
    "bin/busybox microcom -s 250000 PORT",
)
os.chdir(os.environ["HOME"])
ports, same = [pty.openpty() for _ in COMMANDS], True
for command, (far, near) in zip(COMMANDS, ports):
    words = command.replace("PORT", os.ttyname(near)).split()
    pid, screen = pty.fork()
    if pid == 0:
        os.execv(words[0], words)
    time.sleep(2)
    running = os.waitpid(pid, os.WNOHANG)[0] == 0
    speed = subprocess.run(["stty", "speed"], stdin=near, capture_output=True, text=True).stdout
    name = words[0].rpartition("/")[2]
    print(f"{name}: {'runs' if running else 'ended, the port is'} at {speed.strip()}", flush=True)
    same = same and running and speed.strip() != "250000"
    if running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
sys.exit(not same)
END
