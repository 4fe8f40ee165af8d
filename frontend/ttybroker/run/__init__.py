"""`ttybroker run` and the user half of `ttyrun`: any program, on brokered ports.

`command` reads the command line, `choose` decides how the program's opens are answered,
`become` turns this process into the program. The other files are the processes beside it.
"""

from __future__ import annotations

from ttybroker.run.command import main

__all__ = ["main"]
