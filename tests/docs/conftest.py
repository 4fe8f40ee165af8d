"""Fixtures of the tests of the pages."""

from support.fixtures import rig

__all__ = ["rig"]
