#!/bin/sh
# In the guest, as root: install the packages that are in the current directory. There is no
# network: what they depend on is there (../image.sh).
export DEBIAN_FRONTEND=noninteractive
apt-get install -q -y ./*.deb >install.log 2>&1 || {
	cat install.log
	exit 1
}
