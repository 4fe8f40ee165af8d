"""Whether this process works without pyserial, whose only use here is the class SerialException.

The processes of `ttybroker run` set this before they load anything else. No code of a user runs in
them, so nobody catches that class, and loading it would make every start slower.
"""

from __future__ import annotations

without_pyserial = False
