#!/bin/sh
# enter.sh ROOT COMMAND...: run it as root in that directory as if it were a machine of its own: own
# mounts, host name, /dev, /run and /tmp. This machine's nodes and files are not there. Its processes
# are: in a pid namespace /proc/locks would have no line of a broker that has ended.
set -eu
root=$(realpath "$1")
shift
if [ "${ENTERED:-}" != yes ]; then
	exec env ENTERED=yes unshare --mount --ipc --uts --propagation private "$0" "$root" "$@"
fi
unset ENTERED
hostname "${root##*/}"
mount --bind "$root" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sys sys
mount -t tmpfs -o mode=755,nosuid,nodev run run
mkdir -m 1777 run/lock
mount -t tmpfs -o mode=1777,nosuid,nodev tmp tmp
mount -t tmpfs -o mode=755,nosuid dev dev
for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'fuse 10 229'; do
	name=${node%% *}
	# shellcheck disable=SC2086
	mknod -m 666 dev/$name c ${node#* }
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 pts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
# Not chroot(2): in one no user namespace can be made, and programs of the tests do.
pivot_root . mnt
umount -l /mnt
exec "$@"
