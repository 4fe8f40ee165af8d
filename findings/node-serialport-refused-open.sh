#!/bin/sh
# Software:  serialport 13.0.0 (npm) with its @serialport/bindings-cpp 13.0.0, on Linux.
# Expected:  `lock: true` (the default) keeps others from opening the port (OpenOptions in
#            @serialport/bindings-interface). An open that is refused leaves the port as it was: it
#            belongs to the program that has the lock.
# Seen:      The open of a port that another program holds by flock(2) fails with "Cannot lock port",
#            after its stop bits and flow control were set: they are now those of the holder.
#            bindings-cpp calls tcsetattr(3) before flock(2).
# Output:    before: -cstopb -crtscts -ixon
#            open:   Error Resource temporarily unavailable Cannot lock port
#            after:  cstopb crtscts ixon
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(cd "$dir" && npm install --silent --no-audit --no-fund serialport@13.0.0 @serialport/bindings-cpp@13.0.0 >&2) || exit 2
cat >"$dir/open.js" <<'END'
const { SerialPort } = require('serialport')
const wanted = { path: process.argv[2], baudRate: 9600, stopBits: 2, rtscts: true, xon: true }
new SerialPort(wanted, error => {
  console.log('open:  ', error ? error.message : 'no error')
  process.exit(0)
})
END
cat >"$dir/try.py" <<'END'
import fcntl
import os
import pty
import subprocess
import sys
import termios
import tty

FLAGS = [("cstopb", 2, termios.CSTOPB), ("crtscts", 2, termios.CRTSCTS), ("ixon", 0, termios.IXON)]


def settings():
    modes = termios.tcgetattr(holder)
    return " ".join(("" if modes[i] & bit else "-") + name for name, i, bit in FLAGS)


far, holder = pty.openpty()
tty.setraw(holder)
fcntl.flock(holder, fcntl.LOCK_EX)
print("before:", before := settings(), flush=True)
said = subprocess.run(["node", "open.js", os.ttyname(holder)], cwd=sys.argv[1], capture_output=True, text=True).stdout
print(said, end="")
print("after: ", after := settings())
sys.exit(not ("Cannot lock port" in said and after != before))
END
/usr/bin/python3 "$dir/try.py" "$dir"
