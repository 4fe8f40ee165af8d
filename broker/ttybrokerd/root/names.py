"""By which aliases of a policy a device is known."""

from __future__ import annotations

from ttybrokerd.root import TYPE_CHECKING, words
from ttybrokerd.root.refusal import Absent, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ttybrokerd.root.device import Devices


class Names:
    """Some aliases, and the devices to which they lead.

    They are looked up once, at the first question. That serves all devices that are asked about: a
    list asks about many.
    """

    def __init__(self, devices: Devices, aliases: Mapping[str, str]) -> None:
        self._devices = devices
        self._aliases = aliases
        self.forget()

    def __bool__(self) -> bool:
        return bool(self._aliases)

    def forget(self) -> None:
        """Look them up again at the next question."""
        self._looked = False
        self._links: set[str] = set()
        self._by_path: dict[str, list[str]] = {}
        self._by_number: dict[int, list[str]] = {}
        self._unsafe: list[str] = []
        self._words: dict[str, str] = {}

    def leading_to(self, node: str) -> list[str]:
        """Return the aliases whose links lead to the device of this node.

        An alias that others than root could redirect is taken for a name of every device. It is not
        followed: it could lead through a file system that never answers.
        """
        self._look_up()
        found = list(self._by_path.get(node, ()))
        if self._by_number and (number := self._devices.number(node)) is not None:
            found += [one for one in self._by_number.get(number, ()) if one not in found]
        return found + self._unsafe

    def leading_elsewhere(self, names: Iterable[str]) -> bool:
        """Return whether some alias that is a link is not among these names."""
        self._look_up()
        return not self._links <= set(names)

    def fitting(self, kernel_name: str) -> list[str]:
        """Return the aliases whose words are true of this device; all if nothing is known of it."""
        self._look_up()
        if not self._words:
            return []
        facts = self._devices.facts(kernel_name)
        return [alias for alias, wanted in self._words.items()
                if facts is None or words.fit(wanted, facts)]  # fmt: skip

    def _look_up(self) -> None:
        if self._looked:
            return
        self._looked = True
        for alias, device in self._aliases.items():
            if words.are(device):
                self._words[alias] = device
            else:
                self._links.add(alias)
                self._follow(alias, device)

    def _follow(self, alias: str, link: str) -> None:
        try:
            node = self._devices.path(alias, link)
        except Absent:
            return
        except Refusal:
            self._unsafe.append(alias)  # guard: unsafe-alias-is-a-name
            return
        self._by_path.setdefault(node, []).append(alias)
        # guard: another-node-of-the-device
        if (number := self._devices.number(node)) is not None:
            self._by_number.setdefault(number, []).append(alias)
