#!/bin/sh
# Software:  pexpect 4.9.0 (PyPI).
# Expected:  EOF says that the end of the output was read; a read that takes longer than its limit
#            raises TIMEOUT (docstrings of pexpect.EOF, pexpect.TIMEOUT and spawn.read_nonblocking).
# Seen:      A program leaves a child that ignores SIGHUP and has the terminal open, and ends. At its
#            time limit expect() reports EOF, not TIMEOUT: the program has ended. What the child
#            writes later can still be read.
# Output:    after 2 s: EOF, with b'the program ends\r\n'
#            then there was more: b'the child was still there\r\n'
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
/usr/bin/python3 -m venv "$dir" && "$dir/bin/pip" -qq install pexpect==4.9.0 || exit 2
"$dir/bin/python" - <<'END'
import sys
import time

import pexpect

CHILD = "trap '' HUP; (sleep 4; echo the child was still there)"
program = pexpect.spawn("sh", ["-c", f"{CHILD} & echo the program ends; sleep 1"])
begin = time.monotonic()
first = program.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=2)
after = time.monotonic() - begin
print(f"after {after:.0f} s: {['EOF', 'TIMEOUT'][first]}, with {program.before!r}")
time.sleep(4)
program.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=2)
print(f"then there was more: {program.before!r}")
sys.exit(not (first == 0 and after > 1.9 and b"still there" in program.before))
END
