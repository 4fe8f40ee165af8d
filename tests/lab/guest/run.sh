#!/bin/sh
# In the guest, as root: install the packages that are in the current directory, and run pytest
# with these arguments. There is no network: what they depend on is there (../image.sh).
export DEBIAN_FRONTEND=noninteractive PYTHONPATH=/project/tests PACKAGES="$PWD"
apt-get install -q -y ./*.deb >install.log 2>&1 || {
	cat install.log
	exit 1
}
cd /project/tests/lab/guest
exec python3 -B -u -m pytest -c pytest.ini "$@"
