"""ttybrokerd: the root side of ttybroker. See `init_backend` and the command of the same name."""

# ruff: noqa: E402, F401

import gc

_collecting = gc.isenabled()
gc.disable()  # what is loaded stays: there is no garbage to look for in it

# What is not ours comes first, and then ours in one piece: a fork shares memory by the page, and
# the backend makes those its own that hold what it runs. Measured: 0.2 MB of 3.
import _queue
import _socket
import ctypes
import grp
import pwd
import resource
import termios

import prctl

from ttybrokerd.backend import init_backend

if _collecting:
    gc.enable()

__all__ = ["init_backend"]
