#!/bin/sh
# In the guest, as root: install the packages that are in the current directory, and run pytest
# with these arguments.
export PYTHONPATH=/project/tests PACKAGES="$PWD"
sh /project/tests/lab/guest/install.sh || exit
cd /project/tests/lab/guest
exec python3 -B -u -m pytest -c pytest.ini "$@"
