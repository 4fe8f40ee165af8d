#!/bin/sh
# Software:  stm32flash 0.7-1 (Debian 12) on Linux.
# Expected:  Each speed that `-b` is said to take can be set. For a speed that it does not take, stm32flash
#            prints "Invalid baud rate, valid options are:" and a list.
# Seen:      Four speeds of that list are refused, because Linux has no constant for them in <termios.h>.
#            The other speeds of the list are taken.
# Output:    listed and refused: 14400 56000 128000 256000
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download stm32flash=0.7-1 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
/usr/bin/python3 - "$dir/usr/bin/stm32flash" <<'END'
import os
import pty
import subprocess
import sys

far, near = pty.openpty()
# A pty has no parity. Nobody answers, so a speed that is taken ends with a timeout.
command = [sys.argv[1], "-m", "8n1", os.ttyname(near)]


def said(speed: str) -> str:
    words = [*command, "-b", speed]
    return subprocess.run(words, capture_output=True, text=True, timeout=30).stderr


_, found, listed = said("1").partition("Invalid baud rate, valid options are:")
speeds = listed.split("\n\n")[0].split()
print("listed:", *speeds)
refused = [speed for speed in speeds if "Unsupported baud rate" in said(speed)]
print("listed and refused:", *refused)
sys.exit(not found or refused != ["14400", "56000", "128000", "256000"])
END
