#!/bin/sh
# old-packages.sh DIRECTORY: build the packages of 0.1.0 there, from this clone's history. The lintian of
# a later release refuses them; they are there nevertheless. Exit status 3: the history is not here.
set -eu
commit=777875549d14c74a2a8a8dbbea47264b18af544f
git() { command git -c safe.directory='*' "$@"; }
git cat-file -e "$commit^{commit}" 2>/dev/null || exit 3
rm -rf "$1"
mkdir -p "$1/source"
git archive "$commit" | tar -x -C "$1/source"
make -C "$1/source" deb >"$1/log" 2>&1 || :
# In dist, or where lintian left them.
find "$1/source" -name '*ttybroker_*.deb' -exec mv {} "$1" \;
[ -e "$1"/ttybroker_*.deb ] || {
	tail "$1/log" >&2
	exit 1
}
rm -rf "$1/source"
