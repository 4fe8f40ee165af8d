"""Fixtures of the tests of the pages.

All of the user side is loaded here: a child that has become another user may not be able to read
the checkout any more.
"""

import importlib
import pkgutil

import serial.tools.list_ports_linux  # noqa: F401 (as `ttybroker list` does)

import ttybroker
from support.fixtures import rig

__all__ = ["rig"]

for module in pkgutil.walk_packages(ttybroker.__path__, "ttybroker."):
    importlib.import_module(module.name)
