#!/bin/sh
# packages.sh: as root in a root of a release, after `make deb`. The packages are installed and tested
# by autopkgtest, purged, installed as 0.1.0 and upgraded, and purged again. Nothing may be left of them.
# The packages of 0.1.0 stay in build/old, for the lab.
set -eu
export DEBIAN_FRONTEND=noninteractive
name=packages
. tests/distro/say.sh
desk=/etc/ttybroker/policy.d/90-desk.toml

# All that is there but what dpkg, apt and their logs keep, what Python compiles of autopkgtest, and
# this clone.
files() {
	find / -xdev \( -path /root -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache \
		-o -path /var/log -o -path /usr/share/autopkgtest \) -prune -o -print | sort
	find /run -path '*ttyb*'
}
install() { quietly apt-get install -q -y --allow-downgrades --no-install-recommends "$@"; }
purge() {
	quietly dpkg --purge ttybroker python3-ttybroker
	files >"$work/after"
	diff "$work/before" "$work/after" || fail "the purge of $1 leaves these (>), or took these (<)"
	say "$1 is purged, and nothing is left"
}

say "the Debian packages that trying them needs"
packaging/apt-needs autopkgtest picocom python3-serial python3-prctl python3-seccomp
dpkg --purge ttybroker python3-ttybroker >"$work/log" 2>&1 || :  # of a run that failed
files >"$work/before"

quietly autopkgtest --no-built-binaries dist/*.deb build/deb/ttybroker -- null
sed -n '/test main-job: \[-/,$p' "$work/log"
install ./dist/*.deb
[ -e $desk ] || fail "a first installation has no rules for who sits at the machine"
ttybrokerd --check --policy /etc/ttybroker/policy.toml >"$work/log" || fail "no policy in force"
purge "what autopkgtest installed"

say "building 0.1.0"
if tests/distro/old-packages.sh build/old; then
	install ./build/old/*.deb
	say "installed: $(dpkg-query -W ttybroker | tr '\t' ' ')"
	install ./dist/*.deb
	say "installed: $(dpkg-query -W ttybroker | tr '\t' ' ')"
	dpkg -V ttybroker python3-ttybroker || fail "the upgrade left other files than the package's"
	ttybrokerd --check --policy /etc/ttybroker/policy.toml >"$work/log" || fail "no policy in force"
	! [ -e $desk ] || fail "the upgrade made the policy wider"
	purge "what was upgraded from 0.1.0"
elif [ $? = 3 ]; then
	say "NOT RUN: the upgrade from 0.1.0; this clone has no commit of it"
else
	fail "0.1.0 cannot be built"
fi
