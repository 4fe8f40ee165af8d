#!/bin/sh
# pip.sh PYTHON: as root in a root of a release. What pip and pipx install from this clone, by the ways that
# the README names, is tried; the root side does its main job from a virtual environment.
set -eu
python=$1
name=pip
. tests/distro/say.sh
chmod 755 "$work" # the demo's user side enters it

packaging/apt-needs pipx python3-pip python3-venv python3-dev gcc libc6-dev libcap-dev libseccomp2
version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' frontend/ttybroker/version.py)

/usr/bin/python3 -m pip install . >"$work/log" 2>&1 && fail "Debian's own Python takes what pip installs"
grep -q externally-managed "$work/log" || { cat "$work/log"; fail "this is not PEP 668"; }
say "Debian's own Python refuses pip, as the README says"

quietly env PIPX_HOME="$work/pipx" PIPX_BIN_DIR="$work/bin" pipx install .
[ "$("$work/bin/ttybroker" --version)" = "ttybroker $version" ] || fail "pipx installs another version"
"$work/bin/ttybroker" list >"$work/log" 2>&1 && fail "there is no daemon, and list does not say so"
grep -q "no broker at" "$work/log" || { cat "$work/log"; fail "list does not say that there is no daemon"; }
say "by pipx: ttybroker $version"

quietly "$python" -m venv "$work/venv"
quietly "$work/venv/bin/pip" install '.[broker]'
(cd / && "$work/venv/bin/python" -m ttybrokerd.demo) >"$work/log" 2>&1 || { cat "$work/log"; fail "the demo failed"; }
say "in a virtual environment, with the root side: the demo works"
