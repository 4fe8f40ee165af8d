#!/bin/sh
# Software:  pyserial 3.5 (PyPI) on Linux with glibc; strace 6.1 (Debian 12) to look at it.
# Expected:  Serial.send_break(duration) holds the break for `duration` seconds, 0.25 by default
#            (pySerial API, send_break).
# Seen:      From 0.25 s to 25 s, whatever is asked for, the kernel is asked for 0.1 s: pyserial gives
#            tcsendbreak(3) quarters of a second, and glibc takes them for milliseconds, rounded up
#            to TCSBRKP's unit, a tenth of a second (ioctl_tty(2)). pyserial's issue 426 is about it.
# Output:    0.25 s asked for: TCSBRKP, 1
#            1 s asked for: TCSBRKP, 1
#            3 s asked for: TCSBRKP, 1
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
/usr/bin/python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" -qq install pyserial==3.5 || exit 2
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download strace=6.1-0.1 libunwind8=1.6.2-3 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
export LD_LIBRARY_PATH="$(echo "$dir"/usr/lib/*-linux-*)"
cat >"$dir/send.py" <<'END'
import os
import pty
import sys

import serial

_, end = pty.openpty()
serial.Serial(os.ttyname(end)).send_break(float(sys.argv[1]))
END
same=0
for seconds in 0.25 1 3; do
    call=$("$dir/usr/bin/strace" -e trace=ioctl "$dir/venv/bin/python" "$dir/send.py" $seconds 2>&1 |
        sed -n 's/.*\(TCSBRK.*\)).*/\1/p')
    echo "$seconds s asked for: $call"
    [ "$call" = "TCSBRKP, 1" ] || same=1
done
exit $same
