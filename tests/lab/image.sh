#!/bin/sh
# Build the guest in the directory OUT, as root, from Debian's packages alone:
#
#   vmlinux     Debian's kernel, uncompressed, which software emulation boots 10 s faster
#   initramfs   loads the drivers for the root disk, and mounts it
#   root.ext4   Debian with Python, pytest, the drivers of serial ports, and terminal programs
#
# The guest writes to an overlay in its memory and never to the disk, so what is built once
# serves all runs.
set -eu
here=$(dirname "$(realpath "$0")")
out=$1

SUITE=bookworm
# What ttybroker depends on is here, for in the guest there is no network.
PACKAGES=systemd-sysv,udev,dbus,libpam-systemd,kmod,procps,strace
PACKAGES=$PACKAGES,python3,python3-serial,python3-prctl,python3-seccomp
PACKAGES=$PACKAGES,python3-pytest,python3-pytest-timeout,python3-pexpect
PACKAGES=$PACKAGES,lrzsz,picocom,minicom,cu
ROOT_MODULES="virtio_pci virtio_blk ext4 crc32c_generic overlay"
MODULES="9p 9pnet_virtio virtio_console xhci-pci ftdi_sio"
# Line disciplines that any holder of a port may attach.
MODULES="$MODULES ppp_async n_hdlc pps-ldisc"

say() { echo "lab:   $*"; }

# The modules with all that they need, in the order in which to load them.
modules() {
	modprobe -d kernel -S "$version" --show-depends -a "$@" |
		awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

fetch_kernel() {
	package=$(apt-cache depends linux-image-amd64 | awk '/Depends:/ { print $2; exit }')
	version=${package#linux-image-}
	say "kernel $version"
	apt-get download -q "$package" >log 2>&1 || { cat log >&2; exit 1; }
	dpkg-deb -x "$package"_*.deb kernel
	depmod -b kernel "$version"
	python3 "$here/vmlinux.py" "kernel/boot/vmlinuz-$version" >vmlinux
}

make_root() {
	say "Debian $SUITE with Python, pytest and terminal programs"
	mmdebstrap --quiet --variant=minbase --include="$PACKAGES" \
		--aptopt='APT::Install-Recommends false' "$SUITE" root 2>log ||
		{ cat log >&2; exit 1; }
	rm -rf root/dev/* root/var/cache/apt/* root/usr/share/doc root/usr/share/locale
	for module in $(modules $MODULES); do
		install -D -m 644 "$module" "root/lib/modules/${module#*/lib/modules/}"
	done
	cp "kernel/lib/modules/$version"/modules.order "kernel/lib/modules/$version"/modules.builtin* \
		"root/lib/modules/$version/"
	depmod -b root "$version"
	chroot root useradd --create-home --groups dialout alice
	chroot root useradd --create-home bob
	echo lab >root/etc/hostname
	: >root/etc/fstab
	echo 00000000000000000000000000001ab0 >root/etc/machine-id
	cp -R "$here/rootfs/." root/
	# What would only keep an emulated processor busy.
	for unit in serial-getty@ttyS0.service getty@tty1.service systemd-timesyncd.service \
		apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \
		e2scrub_all.timer e2scrub_reap.service systemd-pstore.service; do
		ln -sf /dev/null "root/etc/systemd/system/$unit"
	done
}

make_disk() {
	say "disk and initramfs"
	size=$(($(du -sm root | cut -f1) * 5 / 4 + 32))
	mke2fs -q -t ext4 -O ^has_journal -d root root.ext4 "${size}M"
	mkdir -p ird/bin ird/modules ird/proc ird/dev ird/lower ird/upper ird/root
	cp /bin/busybox ird/bin/
	for module in $(modules $ROOT_MODULES); do
		cp "$module" ird/modules/
		basename "$module" >>ird/modules/order
	done
	install -m 755 "$here/initramfs-init" ird/init
	(cd ird && find . | cpio --quiet -o -H newc) >initramfs
}

mkdir -p "$out"
cd "$out"
fetch_kernel
make_root
make_disk
rm -rf root ird kernel log ./*.deb
