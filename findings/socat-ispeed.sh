#!/bin/sh
# Software:  socat 1.7.4.4-2 (Debian 12, glibc 2.36) on Linux.
# Expected:  ispeed=9600 and ospeed=9600 set the baud rate of the line ("Set the baud rate for
#            incoming data on this line", ispeed=<unsigned-int>, socat(1)).
# Seen:      They take the number of the constant in C: 9600 is refused, 13 (B9600 in <termios.h> on
#            most Linux architectures) means 9600. The option b9600 works as the manual says.
# Output:    ispeed=9600,ospeed=9600: E cfsetispeed(..., 9600): Invalid argument
#            ispeed=13,ospeed=13: the speed is 9600
#            b9600: the speed is 9600
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download socat=1.7.4.4-2 libwrap0=7.6.q-32 libnsl2=1.3.0-2 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
LD_LIBRARY_PATH=$(echo "$dir"/usr/lib/*-linux-*)
export LD_LIBRARY_PATH
/usr/bin/python3 - "$dir/usr/bin/socat" <<'END'
import os
import pty
import subprocess
import sys

good = {"ispeed=9600,ospeed=9600": "Invalid argument", "ispeed=13,ospeed=13": "9600", "b9600": "9600"}
same = True
for options, expected in good.items():
    far, near = pty.openpty()
    port = os.ttyname(near)
    # once it has set up the port, socat runs stty, and writes to the port what that says
    command = [sys.argv[1], "-U", f"{port},{options}", f"EXEC:stty -F {port} speed"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    said = ended.stderr.strip() or "the speed is " + os.read(far, 100).decode().strip()
    print(f"{options}: {said}")
    same = same and said.endswith(expected)
sys.exit(not same)
END
