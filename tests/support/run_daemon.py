"""Run ttybrokerd as the command does, but with its log on standard error on any machine.

    run_daemon.py --hook=CODE -- ARGUMENTS OF ttybrokerd

CODE runs first; the tests use it to make one port's device slow.
"""

from __future__ import annotations

import sys
from functools import partial

from ttybrokerd import daemon
from ttybrokerd.root import log


def main() -> int:
    """Run the hook, then the daemon."""
    hook, _, *arguments = sys.argv[1:]
    vars(daemon)["Log"] = partial(log.Log, journal="/nonexistent")
    exec(hook.removeprefix("--hook="), {})
    return daemon.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
