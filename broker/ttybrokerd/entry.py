"""`ttybrokerd` as pip installs it, also where nothing is there that the root side needs."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the daemon; return its exit status, 1 after a line where a package is missing."""
    try:
        from ttybrokerd.daemon import main as daemon
    except ModuleNotFoundError as error:
        what = "only the user side is installed here"
        step = "install the Debian package ttybroker, or in a clone: pip install '.[broker]'"
        print(f"ttybrokerd: {what} ({error.name} is missing); {step}", file=sys.stderr)
        return 1
    return daemon()
