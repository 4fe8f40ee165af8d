"""Where in a TOML text its rules and keys stand, which tomllib does not tell.

A line is where a statement begins if what stands before it can be read alone: a `[[rule]]`
inside a string of several lines has the beginning of that string before it, which cannot.
"""

from __future__ import annotations

import re
import tomllib

_QUOTED = r"""(?:{0}|"{0}"|'{0}')"""
_RULE = ("[[rule]]", '[["rule"]]', "[['rule']]")  # without spaces


class Lines:
    """The lines of a text that tomllib has read, in which there are so many rules."""

    def __init__(self, text: str, rules: int) -> None:
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._rules = self._find_rules()
        self.exact = len(self._rules) == rules  # else rules are written in another way

    def rule(self, number: int) -> int:
        """The line of this [[rule]] (from 0), or of what is nearest to it; from 1."""
        return self._rules[number] + 1 if self.exact else self._key("rule", 0, len(self._lines))

    def key(self, key: str, rule: int | None) -> int:
        """The line of a key of this rule, or of one above all rules; from 1. Where the key
        is not there, the line of its rule."""
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
