#!/bin/sh
# Software:  rz of lrzsz 0.12.21-10+deb12u1 (Debian 12).
# Expected:  rz waits for the sender, by default 10 s for each try (-t, --timeout, in tenths of a
#            second, rz(1)). The manual asks nothing of standard input but that it is the line.
# Seen:      With a standard input that is non-blocking (as a program leaves it that opened the port
#            for poll(2)), rz takes EAGAIN for the end of its time limit: all its tries are over in a
#            few milliseconds, and it fails before a sender could begin.
# Output:    blocking:     still waiting after 3 s
#            non-blocking: status 128 after 0.0 s, "Got TIMEOUT" 5 times
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download lrzsz=0.12.21-10+deb12u1 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
/usr/bin/python3 - "$dir/usr/bin/rz" "$dir" <<'END'
import os
import pty
import subprocess
import sys
import time
import tty

far, port = pty.openpty()
tty.setraw(port)


def receive(blocking):
    os.set_blocking(port, blocking)
    begin = time.monotonic()
    rz = subprocess.Popen([sys.argv[1], "-vv"], cwd=sys.argv[2], stdin=port, stdout=port, stderr=subprocess.PIPE, text=True)
    try:
        errors = rz.communicate(timeout=3)[1]
    except subprocess.TimeoutExpired:
        rz.kill()
        rz.communicate()
        return "still waiting after 3 s"
    took = time.monotonic() - begin
    return f'status {rz.returncode} after {took:.1f} s, "Got TIMEOUT" {errors.count("Got TIMEOUT")} times'


good, bad = receive(True), receive(False)
print(f"blocking:     {good}")
print(f"non-blocking: {bad}")
sys.exit(not ("waiting" in good and "status 128" in bad and "TIMEOUT" in bad))
END
