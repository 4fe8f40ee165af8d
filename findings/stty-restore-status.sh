#!/bin/sh
# Software:  stty of coreutils 9.1-1 (Debian 12, glibc 2.36) on Linux.
# Expected:  stty takes back what `stty -g` printed (stty(1)), with exit status 0. A failure means
#            that not all was done ("unable to perform all requested operations").
# Seen:      When the speed was changed in between, stty puts everything back, and then says that it
#            could not, with status 1; a script under `set -e` ends there. The same command once more,
#            with nothing left to do, has status 0.
# Output:    only echo was changed: status 0, all as saved: True
#            the speed was changed: status 1, all as saved: True
#            the same once more: status 0, all as saved: True
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
import os
import pty
import subprocess
import sys

far, port = pty.openpty()


def stty(*words):
    command = [sys.argv[1], "-F", os.ttyname(port), *words]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


seen, saved = [], stty("-g").stdout.strip()
for what, change in (
    ("only echo was changed", ["-echo"]),
    ("the speed was changed", ["9600"]),
    ("the same once more", []),
):
    if change:
        stty(*change)
    seen.append((stty(saved).returncode, stty("-g").stdout.strip() == saved))
    print(f"{what}: status {seen[-1][0]}, all as saved: {seen[-1][1]}")
sys.exit(seen != [(0, True), (1, True), (0, True)])
END
