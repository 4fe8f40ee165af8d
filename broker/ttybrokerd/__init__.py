"""ttybrokerd: the root side of ttybroker. See `init_backend` and the command of the same name."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ttybrokerd.backend import init_backend

__all__ = ["init_backend"]


def __getattr__(name: str) -> object:
    """Load `init_backend` from backend.py, which the daemon does not need: PEP 562."""
    if name != "init_backend":
        raise AttributeError(f"module 'ttybrokerd' has no attribute {name!r}")
    from ttybrokerd.backend import init_backend

    return init_backend
