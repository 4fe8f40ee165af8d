#!/bin/sh
# Run a program in its own namespaces, without any device, and let it have serial ports from the broker.
# It sees only /usr and the broker's socket of this machine.
#
#   container.sh /usr/bin/python3 -c 'import ttybroker; print(ttybroker.open_tty("ttyS0"))'
#
# Inside it is root. The policy judges the user who started it, and `ttybroker list` names its process by
# the pid outside. Options for bwrap(1) may come before the program.
# For podman or docker, use --volume /run/ttybroker/socket:/run/ttybroker/socket. In a rootless container,
# the policy sees root as the user who started it, and other users by their subordinate uids.
set -eu
exec bwrap --unshare-all --die-with-parent --uid 0 --gid 0 --clearenv \
	--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
	--proc /proc --dev /dev --tmpfs /tmp \
	--ro-bind "${TTYBROKER_SOCKET:-/run/ttybroker/socket}" /run/ttybroker/socket \
	"$@"
