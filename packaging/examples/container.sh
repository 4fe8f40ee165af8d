#!/bin/sh
# Run a program that has no device at all, in namespaces of its own, and let it have serial ports
# from the broker: what it gets to see of this machine is /usr and the broker's socket.
#
#   container.sh /usr/bin/python3 -c 'import ttybroker; print(ttybroker.open_tty("ttyS0"))'
#
# In there it is root; the policy is asked about the user who started it, and `ttybroker list` names
# its process as it is seen out here. Options for bwrap(1) may come before the program.
# With podman or docker it is --volume /run/ttybroker/socket:/run/ttybroker/socket; of a rootless
# container's root the policy sees the user who started it, of its other users their subordinate
# uids.
set -eu
exec bwrap --unshare-all --die-with-parent --uid 0 --gid 0 --clearenv \
	--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
	--proc /proc --dev /dev --tmpfs /tmp \
	--ro-bind "${TTYBROKER_SOCKET:-/run/ttybroker/socket}" /run/ttybroker/socket \
	"$@"
