"""Whether this process does without pyserial, which is loaded for one class: SerialException.

The processes of `ttybroker run` say so before they load anything else. No code of a user's runs in
them, so nobody catches that class, and what it takes to load is a part of every start.
"""

from __future__ import annotations

without_pyserial = False
