#!/bin/sh
# image.sh OUT SUITE ARCH: build the guest in the directory OUT, as root, from that release's packages
# for amd64 or arm64 alone:
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
suite=$2
arch=$3

# What ttybroker depends on is here, for in the guest there is no network.
PACKAGES=systemd-sysv,udev,dbus,libpam-systemd,kmod,procps,strace
PACKAGES=$PACKAGES,python3,python3-serial,python3-prctl,python3-seccomp
PACKAGES=$PACKAGES,python3-pytest,python3-pytest-timeout,python3-pexpect
PACKAGES=$PACKAGES,lrzsz,picocom,minicom,cu
# Who serves a port on TCP; and what labgrid is installed with, from wheels (__main__.py).
PACKAGES=$PACKAGES,ser2net,python3-venv
# A root that writes to ports which it finds; a test starts it.
PACKAGES=$PACKAGES,modemmanager
# ext4 needs crc32c, which has had two names.
ROOT_MODULES="virtio_pci virtio_blk ext4 overlay"
CRC32C="crc32c_generic crc32c-cryptoapi"
MODULES="9p 9pnet_virtio virtio_console xhci-pci ftdi_sio"
# USB devices that a test itself answers for: guest/usbip.py.
MODULES="$MODULES vhci-hcd"
# Line disciplines that any holder of a port may attach.
MODULES="$MODULES ppp_async pps-ldisc"
N_HDLC=n_hdlc # not on arm64

say() { echo "lab:   $*"; }

# The modules with all that they need, in the order in which to load them.
modules() {
	modprobe "$@" -d kernel -S "$version" --show-depends -a |
		awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# The kernel's packages, by the release's apt; up to Debian 13 it is one, then one for each of its
# parts. A mirror may be a copy of an earlier day: this machine's apt knows.
# So does the busybox of the initramfs, for it may be for another machine than this one.
make_files() {
	say "Debian $suite for $arch with Python, pytest and terminal programs"
	# The packages' own scripts then run by qemu-user. Where nothing mounted binfmt_misc at boot,
	# nothing was told of it.
	[ "$arch" = "$(dpkg --print-architecture)" ] || arch-test "$arch" >/dev/null ||
		update-binfmts --enable
	mmdebstrap --quiet --variant=minbase --architectures="$arch" --include="$PACKAGES" \
		--aptopt='APT::Install-Recommends false' \
		--aptopt="$(apt-config dump Acquire::Check-Valid-Until)" \
		--customize-hook='export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
			apt-get download -q busybox-static $(
				apt-cache depends --recurse --important linux-image-'"$arch"' |
				grep -xE "linux-(image|binary|modules|base)-[0-9].*-'"$arch"'")' \
		"$suite" root >log 2>&1 || { cat log >&2; exit 1; }
}

unpack_kernel() {
	for package in linux-*.deb; do dpkg-deb -x "$package" kernel; done
	[ -e kernel/lib ] || ln -s usr/lib kernel/lib
	version=$(ls kernel/lib/modules)
	say "kernel $version"
	depmod -b kernel "$version"
	image=kernel/boot/vmlinuz-$version
	[ -e "$image" ] || image=kernel/lib/modules/$version/vmlinuz
	if [ "$arch" = amd64 ]; then
		python3 "$here/vmlinux.py" "$image" >vmlinux
	else
		cp "$image" vmlinux # Debian 12 does not compress it: Documentation/arm64/booting.rst
	fi
}

make_root() {
	rm -rf root/dev/* root/var/cache/apt/* root/usr/share/doc root/usr/share/locale
	for module in $(modules $MODULES; modules -q $N_HDLC); do
		install -D -m 644 "$module" "root/lib/modules/${module#*/lib/modules/}"
	done
	cp "kernel/lib/modules/$version"/modules.order "kernel/lib/modules/$version"/modules.builtin* \
		"root/lib/modules/$version/"
	depmod -b root "$version"
	chroot root useradd --create-home --groups dialout alice
	chroot root useradd --create-home bob
	echo lab >root/etc/hostname
	printf '127.0.0.1\tlocalhost\n127.0.1.1\tlab\n::1\tlocalhost\n' >root/etc/hosts
	: >root/etc/fstab
	echo 00000000000000000000000000001ab0 >root/etc/machine-id
	cp -R "$here/rootfs/." root/
	# Without a network it resolves no name, and then it does not end when it is told to.
	rm -f root/etc/systemd/system/multi-user.target.wants/ser2net.service
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
	dpkg-deb --fsys-tarfile busybox-static_*.deb | tar -x --strip-components=2 -C ird/bin ./bin/busybox
	for module in $(modules $ROOT_MODULES; modules -q $CRC32C); do
		name=$(basename "$module" .xz) # busybox loads none that is compressed
		case $module in
		*.xz) xz -dc "$module" >"ird/modules/$name" ;;
		*) cp "$module" ird/modules/ ;;
		esac
		echo "$name" >>ird/modules/order
	done
	install -m 755 "$here/initramfs-init" ird/init
	(cd ird && find . | cpio --quiet -o -H newc) >initramfs
}

mkdir -p "$out"
cd "$out"
make_files
unpack_kernel
make_root
make_disk
rm -rf root ird kernel log ./*.deb
