"""TOML as far as a policy is one, with the line of every key: https://toml.io/en/v1.0.0.

tomllib keeps no lines, and loads re, typing and datetime at every start of the root side. Refused
here is what no policy can have, whatever its value: dates, dotted keys and tables of tables.
tests/unit/test_toml.py holds this against tomllib: all else they read alike.
"""

from __future__ import annotations

DEPTH = 8  # of arrays and inline tables in one another; a policy needs 3
_DIGITS = {"0x": "0123456789abcdefABCDEF", "0o": "01234567", "0b": "01", "": "0123456789"}
_BARE = frozenset(char for char in map(chr, range(128)) if char.isalnum() or char in "_-")
_IN_NUMBERS = _BARE | {"+", "."}
_SPACE = frozenset(" \t")
_SPACE_OR_LINE = frozenset(" \t\n")
_CONTROL = frozenset(map(chr, [*range(9), *range(10, 32), 127]))  # not the tab
_QUOTES = {  # what ends a piece of a string, by its quotes
    '"': _CONTROL | {'"', "\\"},
    '"""': _CONTROL - {"\n"} | {'"', "\\"},
    "'": _CONTROL | {"'"},
    "'''": _CONTROL - {"\n"} | {"'"},
}
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_CODES = {"u": 4, "U": 8}  # hexadecimal digits behind it


class TomlError(ValueError):
    """The text cannot be read; what is wrong, with line and column."""


class Table(dict[str, object]):
    """A table. `line` is where it begins, `lines` where each of its keys is, from 1."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


def read(text: str) -> Table:
    """The document in `text`: str, bool, int, float, list and Table. Raises TomlError."""
    return _Reader(text).document()


class _Reader:
    """Goes through a text once, from `at` on."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self._counted = 0  # the line of this place is known
        self._line = 1

    def document(self) -> Table:
        document = table = Table(1)
        headed: dict[str, list[Table]] = {}  # by [[key]]
        while self.at < len(self.text):
            self.span(_SPACE)
            if self.take("["):
                double = self.take("[")
                self.span(_SPACE)
                table = self.head(document, headed if double else None)
                self.span(_SPACE)
                self.expect("]]" if double else "]")
            elif self.peek() not in ("", "\n", "#"):
                self.assign(table)
            self.expect_end()
        return document

    def head(self, document: Table, headed: dict[str, list[Table]] | None) -> Table:
        """The table that a header begins; `headed` are those with a header of this kind, if there
        may be more than one of a name."""
        table = Table(self.line())
        key = self.key()
        if headed is None:
            self.add(document, key, table, table.line)
        elif key in headed:
            headed[key].append(table)
        else:
            headed[key] = [table]
            self.add(document, key, headed[key], table.line)
        return table

    def assign(self, table: Table, depth: int = 0) -> None:
        """KEY = VALUE."""
        line, key = self.line(), self.key()
        self.span(_SPACE)
        self.expect("=")
        self.span(_SPACE)
        self.add(table, key, self.value(depth), line)

    def add(self, table: Table, key: str, value: object, line: int) -> None:
        if key in table:  # guard: duplicate-key
            raise self.error(f"{key} is there already, in line {table.lines[key]}")
        table[key] = value
        table.lines[key] = line

    def key(self) -> str:
        quote = self.peek()
        key = self.string(quote) if quote in _QUOTES else self.span(_BARE)
        if not key and quote not in _QUOTES:
            raise self.error("expected a key")
        self.span(_SPACE)
        if self.peek() == ".":
            raise self.error("a policy has no dotted keys")
        return key

    def value(self, depth: int) -> object:
        if depth > DEPTH:
            raise self.error("nested too deep")
        for quote in ('"""', "'''", '"', "'"):
            if self.text.startswith(quote, self.at):
                return self.string(quote)
        if self.take("["):
            return self.array(depth)
        if self.take("{"):
            return self.inline(depth)
        if self.take("true"):
            return True
        if self.take("false"):
            return False
        return self.number()

    def array(self, depth: int) -> list[object]:
        items: list[object] = []
        while True:
            self.between()
            if self.take("]"):
                return items
            items.append(self.value(depth + 1))
            self.between()
            if not self.take(","):
                self.expect("]")
                return items

    def between(self) -> None:
        """Go on behind spaces, ends of lines and comments."""
        self.span(_SPACE_OR_LINE)
        while self.peek() == "#":
            self.comment()
            self.span(_SPACE_OR_LINE)

    def inline(self, depth: int) -> Table:
        table = Table(self.line())
        self.span(_SPACE)
        if self.take("}"):
            return table
        while True:
            self.span(_SPACE)
            self.assign(table, depth + 1)
            self.span(_SPACE)
            if not self.take(","):
                self.expect("}")
                return table

    def number(self) -> int | float:
        start = self.at
        text = self.span(_IN_NUMBERS)
        body = text[1:] if text[:1] in ("+", "-") else text
        base = body[:2] if body is text and body[:2] in _DIGITS else ""
        try:
            if _digits(body[len(base) :], base) and (base or body == "0" or body[0] != "0"):
                return int(text, 0)
            if body in ("inf", "nan") or _is_real(body):
                return float(text)
        except ValueError:  # sys.set_int_max_str_digits()
            raise self.error("no number is that long") from None
        self.at = start
        raise self.error("expected a value")

    def string(self, quote: str) -> str:
        """A string in these quotes: ', ", ''' or \"\"\"."""
        self.at += len(quote)
        if len(quote) == 3:
            self.take("\n")
        parts = []
        while True:
            parts.append(self.until(_QUOTES[quote]))
            if self.take(quote):
                break
            if self.peek() == quote[0]:  # only where it takes three
                parts.append(self.text[self.at])
                self.at += 1
            elif self.take("\\"):
                parts.append(self.escaped(len(quote) == 3))
            else:
                raise self.error(f"expected {quote} or another character of a string")
        if len(quote) == 3:  # of four or five quotes the last three end it
            for _ in range(2):
                parts.append(quote[0] if self.take(quote[0]) else "")
        return "".join(parts)

    def escaped(self, lines: bool) -> str:
        """What a backslash and the text behind it stand for; in `lines`, it may join two."""
        before = self.at
        if lines and (self.span(_SPACE) or self.peek() == "\n"):
            if self.peek() in ("", "\n"):
                self.span(_SPACE_OR_LINE)
                return ""
            self.at = before
        char = self.peek()
        self.at += 1
        if char in _ESCAPES:
            return _ESCAPES[char]
        code = self.text[self.at : self.at + _CODES.get(char, 0)]
        self.at += len(code)
        if len(code) == _CODES.get(char) and set(_DIGITS["0x"]).issuperset(code):
            number = int(code, 16)
            if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF:
                return chr(number)
        self.at = before
        raise self.error("a backslash that stands for nothing")

    def comment(self) -> None:
        """Go on behind a comment, if there is one."""
        if self.take("#"):
            self.until(_CONTROL)
            if self.peek() not in ("", "\n"):
                raise self.error("a control character in a comment")

    def span(self, chars: frozenset[str]) -> str:
        """Go on as long as there are only these; what it was."""
        start, end = self.at, len(self.text)
        while self.at < end and self.text[self.at] in chars:
            self.at += 1
        return self.text[start : self.at]

    def until(self, chars: frozenset[str]) -> str:
        """Go on up to one of these; what it was."""
        start, end = self.at, len(self.text)
        while self.at < end and self.text[self.at] not in chars:
            self.at += 1
        return self.text[start : self.at]

    def peek(self) -> str:
        """The next character; "" at the end."""
        return self.text[self.at : self.at + 1]

    def take(self, what: str) -> bool:
        """Go on behind `what`, if it is here."""
        found = self.text.startswith(what, self.at)
        self.at += len(what) if found else 0
        return found

    def expect(self, what: str) -> None:
        if not self.take(what):
            raise self.error(f"expected {what}")

    def expect_end(self) -> None:
        self.span(_SPACE)
        self.comment()
        if self.at < len(self.text) and not self.take("\n"):  # guard: end-of-value
            raise self.error("expected the end of the line")

    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def error(self, what: str) -> TomlError:
        column = self.at - self.text.rfind("\n", 0, self.at)
        return TomlError(f"{what} (at line {self.line()}, column {column})")


def _digits(text: str, base: str = "") -> bool:
    """Whether it is digits, with _ only between two of them."""
    return all(part and set(_DIGITS[base]).issuperset(part) for part in text.split("_"))


def _is_real(text: str) -> bool:
    mantissa, e, exponent = text.replace("E", "e").partition("e")
    whole, dot, fraction = mantissa.partition(".")
    return (
        _digits(whole)
        and (whole == "0" or whole[0] != "0")
        and (not dot or _digits(fraction))
        and (not e or _digits(exponent[1:] if exponent[:1] in ("+", "-") else exponent))
    )
