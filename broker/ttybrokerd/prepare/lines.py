"""The lines of the rules and keys in a TOML text, which tomllib does not tell.

A statement begins at a line if the text before that line can be parsed by itself. So a `[[rule]]`
inside a string of several lines does not count: the text before it ends within that string.
"""

from __future__ import annotations

import re
import tomllib

_QUOTED = r"""(?:{0}|"{0}"|'{0}')"""
_RULE = ("[[rule]]", '[["rule"]]', "[['rule']]")  # without spaces


class Lines:
    """The lines of a text that tomllib has read, with this number of rules."""

    def __init__(self, text: str, rules: int) -> None:
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._rules = self._find_rules()
        self.exact = len(self._rules) == rules  # else rules are written in another way

    def rule(self, number: int) -> int:
        """Return the line of this [[rule]] (from 0), or the nearest one.

        Lines count from 1.
        """
        return self._rules[number] + 1 if self.exact else self._key("rule", 0, len(self._lines))

    def key(self, key: str, rule: int | None) -> int:
        """Return the line of a key of this rule, or of a key above all rules. Lines count from 1.

        If there is no such key, return the line of its rule.
        """
        if rule is None:
            return self._key(key, 0, len(self._lines))
        if not self.exact:
            return self.rule(rule)
        ends = [*self._rules, len(self._lines)]
        return self._key(key, ends[rule], ends[rule + 1])

    def _find_rules(self) -> list[int]:
        found: list[int] = []
        for at, line in enumerate(self._lines):
            start = found[-1] if found else 0
            if "".join(line.partition("#")[0].split()) in _RULE and self._readable(start, at):
                found.append(at)
        return found

    def _key(self, key: str, start: int, end: int) -> int:
        name = _QUOTED.format(re.escape(key))
        rule = _QUOTED.format("rule")
        begins = re.compile(rf"\s*(?:{name}\s*[=.]|\[\[?\s*(?:{rule}\s*\.\s*)?{name}\s*[].])")
        inline = re.compile(rf"[{{,]\s*{name}\s*=")
        for at in range(start, end):
            if begins.match(self._lines[at]) and self._readable(start, at):
                return at + 1
        for at in range(start, end):
            if inline.search(self._lines[at]):
                return at + 1
        return start + 1

    def _readable(self, start: int, end: int) -> bool:
        try:
            tomllib.loads("\n".join(self._lines[start:end]))
        except (ValueError, RecursionError):
            return False
        return True
