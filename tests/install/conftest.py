"""The end-to-end tests' daemon, for what is installed around it."""

from support.fixtures import daemon, rig

__all__ = ["daemon", "rig"]
