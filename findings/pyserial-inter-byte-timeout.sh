#!/bin/sh
# Software:  pyserial 3.5 (PyPI) on Linux.
# Expected:  With inter_byte_timeout=0.2 a read ends 0.2 s after the last byte that came
#            ("Inter-character timeout, None to disable", pySerial API).
# Seen:      It has no effect: the read lasts until `timeout`, as without it; with timeout=None it
#            would last for ever. The value goes to VTIME, but read() waits with select(2).
#            (pyserial's issue 88 is about it.)
# Output:    inter_byte_timeout=0.2: b'abc' after 3.0 s
#            inter_byte_timeout=None: b'abc' after 3.0 s
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
/usr/bin/python3 -m venv "$dir" && "$dir/bin/pip" -qq install pyserial==3.5 || exit 2
"$dir/bin/python" - <<'END'
import os
import pty
import sys
import time

import serial

far, near = pty.openpty()
port = serial.Serial(os.ttyname(near), timeout=3)
took = []
for port.inter_byte_timeout in (0.2, None):
    os.write(far, b"abc")
    begin = time.monotonic()
    data = port.read(10)
    took.append(time.monotonic() - begin)
    print(f"inter_byte_timeout={port.inter_byte_timeout}: {data!r} after {took[-1]:.1f} s")
sys.exit(min(took) < 2.9)
END
