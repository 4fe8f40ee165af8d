"""ttybrokerd: the root side of ttybroker. See `init_backend` and the command of the same name."""

# What is not ours comes first, and then ours in one piece: a fork shares memory by the page, and
# the backend makes those its own that hold what it runs. Measured: 0.2 MB of 3.
import _queue  # noqa: F401
import ctypes  # noqa: F401
import fnmatch  # noqa: F401
import gc  # noqa: F401
import grp  # noqa: F401
import pwd  # noqa: F401
import resource  # noqa: F401
import selectors  # noqa: F401
import signal  # noqa: F401
import socket  # noqa: F401
import termios  # noqa: F401
import tomllib  # noqa: F401

import prctl  # noqa: F401

from ttybrokerd.backend import init_backend

__all__ = ["init_backend"]
