#!/bin/sh
# Software:  stty of coreutils 9.1-1 (Debian 12, glibc 2.36) on Linux.
# Expected:  `stty -g` prints all current settings in a form that stty takes back (stty(1)), and
#            `stty speed` prints the speed.
# Seen:      Of a speed without a constant of its own (here 250000, set by TCSETS2 as pyserial and
#            picocom do it) neither is true: the speed is said to be 0, and with what -g printed the
#            port stays at the speed that it has. termios(3) of this glibc has no number for such a
#            speed; from glibc 2.42 on it has.
# Output:    the port runs at 250000, stty says 0
#            after stty 9600 and stty $saved it runs at 9600
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download coreutils=9.1-1 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
/usr/bin/python3 - "$dir/bin/stty" <<'END'
import fcntl
import os
import pty
import struct
import subprocess
import sys

TCGETS2, TCSETS2, BOTHER, CBAUD = 0x802C542A, 0x402C542B, 0o10000, 0o10017  # most architectures
far, port = pty.openpty()


def modes():
    buffer = bytearray(44)  # struct termios2
    fcntl.ioctl(port, TCGETS2, buffer)
    return list(struct.unpack("4I20B2I", buffer))


def stty(*words):
    command = [sys.argv[1], "-F", os.ttyname(port), *words]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


free = modes()
free[2] = free[2] & ~(CBAUD | CBAUD << 16) | BOTHER
free[-2:] = 250000, 250000
fcntl.ioctl(port, TCSETS2, struct.pack("4I20B2I", *free))
found, said, saved = modes()[-1], stty("speed").stdout.strip(), stty("-g").stdout.strip()
print(f"the port runs at {found}, stty says {said}")
stty("9600")
stty(saved)
print(f"after stty 9600 and stty $saved it runs at {modes()[-1]}")
sys.exit(not (found == 250000 and said == "0" and modes()[-1] == 9600))
END
