#!/bin/sh
# Software:  pyserial 3.5, pyserial-labgrid 3.5.0.2 (labgrid's fork), pip 23.0.1 (all from PyPI).
# Expected:  The second is kept off, or the first keeps its files; `pip check` tells of a broken set
#            ("Verify installed packages have compatible dependencies", its help). The fork's page
#            says nothing of the other package.
# Seen:      Both have the folder serial/. pip writes one over the other without a word. To uninstall
#            one takes the other's files away; pip still lists that one, and `pip check` is content.
#            (pip's issue 4625 is about this.)
# Output:    both installed:  import serial is 3.5.0.2; No broken requirements found.
#            fork removed:    pyserial 3.5 is listed; No broken requirements found.
#            import serial:   ModuleNotFoundError: No module named 'serial'
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
pip() { "$dir/bin/python" -m pip --disable-pip-version-check "$@"; }
/usr/bin/python3 -m venv "$dir" && pip -qq install pip==23.0.1 pyserial==3.5 || exit 2
pip -qq install pyserial-labgrid==3.5.0.2 || exit 2
version=$("$dir/bin/python" -c 'import serial; print(serial.__version__)')
echo "both installed:  import serial is $version; $(pip check)"
pip -qq uninstall -y pyserial-labgrid
echo "fork removed:    $(pip list --format=freeze | sed -n 's/^pyserial==/pyserial /p') is listed; $(pip check)"
if said=$("$dir/bin/python" -c 'import serial' 2>&1); then
    echo "import serial:   works"
    exit 1
fi
echo "import serial:   $(echo "$said" | tail -n 1)"
[ "$version" = 3.5.0.2 ]
