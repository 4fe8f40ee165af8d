"""Every refusal and its record in the log: who asked, for what, and why not."""

from __future__ import annotations

from ttybroker import wire
from ttybrokerd.root import TYPE_CHECKING
from ttybrokerd.root.connection import Connection
from ttybrokerd.root.fold import Fold
from ttybrokerd.root.log import NOTICE, Log
from ttybrokerd.root.refusal import Refusal

if TYPE_CHECKING:
    from ttybroker.wire import Holder


class Answers:
    """Answers clients and keeps the log in step with what they are told."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.fold = Fold(log)

    def refuse(
        self, client: Connection, name: str, refusal: Refusal, rule: str | None = None
    ) -> None:
        """Say no to the request under way, and log it. `name` is the port's, "" for none."""
        client.request = None
        who = client.identity
        self.fold("refuse", NOTICE, who.uid, port=name or None, pid=who.pid,
                  program=client.program, rule=refusal.rule or rule,
                  reason=refusal.reason)  # fmt: skip
        client.finish(refusal.answer())

    def record(
        self,
        event: str,
        client: Connection | None,
        name: str,
        level: int,
        *,
        device: str | None = None,
        rule: str | None = None,
        holder: Holder | None = None,
        reason: str | None = None,
    ) -> None:
        """Write one record: the holder if that is not the client itself, what, and why."""
        asker = wire.Holder()
        if client is not None:
            who = client.identity
            asker = wire.Holder(who.uid, "", who.pid, client.program)
        about = holder or asker
        self._log(event, level, port=name or None, device=device, uid=about.uid,
                  pid=about.pid, program=about.program, label=about.label or None, rule=rule,
                  reason=reason, by=None if event != "revoke" else str(asker))  # fmt: skip
