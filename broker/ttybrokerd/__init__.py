"""ttybrokerd: the root side of ttybroker. See `init_backend` and the command of the same name."""

from ttybrokerd.backend import init_backend

__all__ = ["init_backend"]
