"""Every refusal and its record in the log: who asked, for what, and why not."""

from __future__ import annotations

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
        holder: Holder,
        name: str,
        level: int,
        *,
        device: str | None = None,
        rule: str | None = None,
        folded: bool = False,
        **more: str | None,
    ) -> None:
        """Write one record: about whom and which port, what, and why.

        `folded`: it counts with the refusals of its user, of which only the first are written.
        """
        log = self.fold if folded else self._log
        log(event, level, port=name, device=device, uid=holder.uid, pid=holder.pid,
            program=holder.program, label=holder.label or None, rule=rule,
            **more)  # fmt: skip
