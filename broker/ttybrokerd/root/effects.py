"""What is to be done about a change of the table. `leases` does it, in the order given."""

from __future__ import annotations

from ttybroker.wire import Value
from ttybrokerd.root import TYPE_CHECKING

if TYPE_CHECKING:
    from ttybrokerd.root.ask import Ask
    from ttybrokerd.root.refusal import Refusal


class Start(Value):
    """Open the port for this request, then report `opened` or `failed`."""

    key: int
    ask: Ask


class Refuse(Value):
    """Tell the asker no."""

    ask: Ask
    refusal: Refusal


class Tell(Value):
    """Tell the asker why it waits; the answer is still to come."""

    ask: Ask
    message: str


class Lend(Value):
    """Tell the session of `ask` that it has `grace` seconds to let go, for `asker`."""

    key: int
    ask: Ask
    asker: Ask
    grace: float


class Warn(Value):
    """Tell the holder that its time is over in `left` seconds."""

    ask: Ask
    left: float


class End(Value):
    """Put the port in order, then report `closed`."""

    key: int
    ask: Ask
    reason: str


Effect = Start | Refuse | Tell | Lend | Warn | End
