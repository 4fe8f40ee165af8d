"""Fixtures of the end-to-end tests."""

from support.fixtures import daemon, rig

__all__ = ["daemon", "rig"]
