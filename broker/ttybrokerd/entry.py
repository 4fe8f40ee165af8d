"""`ttybrokerd` as it is installed, also where nothing is there that the root side needs."""

from __future__ import annotations

import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # what the public module brings costs every start 3 ms


def main() -> int:
    """Run the daemon. Exit status: as of daemon.py; 1 if a package is missing or broken."""
    # Until there is a handler, which takes a tenth of a second, SIGHUP would be our end.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # guard: sighup-waits
    gc.disable()  # until it serves: to look through what is loaded again and again takes 1 ms
    try:
        from ttybrokerd.daemon import main as daemon
    except ImportError as error:
        from ttybroker.say import not_loaded, say, speak_as

        speak_as("ttybrokerd")
        say(f"the root side does not start: {not_loaded(error)}")
        return 1
    return daemon()
