"""`ttybroker run` whose opens are answered without the broker: what the launcher's part costs.

unasked.py CODE ARGUMENT...   as `ttybroker run ARGUMENT...`
"""

from __future__ import annotations

import os
import sys

sys.path.append(sys.argv.pop(1))

from ttybroker.run import broker, command


def answer(*_: object) -> int:
    """Return a descriptor that costs nothing."""
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


broker.Broker.open = answer  # type: ignore[method-assign]
sys.exit(command.main(sys.argv[1:]))
