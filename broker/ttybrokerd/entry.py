"""`ttybrokerd` as it is installed, also where nothing is there that the root side needs."""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # what the public module brings costs every start 3 ms


def main() -> int:
    """Run the daemon; return its exit status, 1 after a line where a package is missing."""
    # Until there is a handler, which takes a tenth of a second, SIGHUP would be our end.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # guard: sighup-waits
    gc.disable()  # until it serves: to look through what is loaded again and again takes 1 ms
    try:
        from ttybrokerd.daemon import main as daemon
    except ModuleNotFoundError as error:
        what = "only the user side is installed here"
        step = "install the Debian package ttybroker, or in a clone: pip install '.[broker]'"
        print(f"ttybrokerd: {what} ({error.name} is missing); {step}", file=sys.stderr)
        return 1
    return daemon()
