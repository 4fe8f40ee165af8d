#!/bin/sh
# Software:  pyserial 3.5 (PyPI), its URL handler socket://.
# Expected:  in_waiting is the number of bytes in the receive buffer (pySerial API). "URL Handlers"
#            says of socket:// that settings and lines are ignored and that data is as ever. read_all()
#            reads all bytes that are there (its docstring).
# Seen:      in_waiting is 1 however many bytes are there, so read(port.in_waiting) and read_all()
#            give one byte.
# Output:    5 bytes are there: in_waiting is 1
#            read_all(): b'h'
#            read(10): b'ello'
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
/usr/bin/python3 -m venv "$dir" && "$dir/bin/pip" -qq install pyserial==3.5 || exit 2
"$dir/bin/python" - <<'END'
import socket
import sys

import serial

listener = socket.create_server(("127.0.0.1", 0))
port = serial.serial_for_url(f"socket://127.0.0.1:{listener.getsockname()[1]}", timeout=1)
far, _ = listener.accept()
far.sendall(b"hello")
while len(port._socket.recv(5, socket.MSG_PEEK)) < 5:
    pass
waiting = port.in_waiting
print(f"5 bytes are there: in_waiting is {waiting}")
first, rest = port.read_all(), port.read(10)
print(f"read_all(): {first!r}")
print(f"read(10): {rest!r}")
sys.exit(not (waiting == 1 and first == b"h" and rest == b"ello"))
END
