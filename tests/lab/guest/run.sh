#!/bin/sh
# In the guest, as root: install the packages that are in the current directory, and run pytest
# with these arguments. Where they name other tests than the guest's, those run, on the clone's code.
export PYTHONPATH=/project/tests PACKAGES="$PWD"
sh /project/tests/lab/guest/install.sh || exit
case " $*" in
*" tests/"*)
	cd /project
	export TEST_TIMEOUT=120
	exec python3 -B -u -m pytest -p no:cacheprovider -o timeout=600 "$@"
	;;
esac
cd /project/tests/lab/guest
exec python3 -B -u -m pytest -c pytest.ini "$@"
