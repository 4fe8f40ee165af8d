"""The policy's TOML, held against tomllib: what both read is the same, and what we refuse besides
is named here."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ttybrokerd.prepare import toml
from ttybrokerd.prepare.toml import Table, TomlError

OURS = ("a policy has no dotted keys", "nested too deep")  # refused though it is TOML


def plain(value: object) -> object:
    """What can be compared: types and signs count, and a nan is one."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return "nan" if math.isnan(value) else (repr(value), "float")
    return (type(value).__name__, value)


def has_date(value: object) -> bool:
    if isinstance(value, dict):
        return any(has_date(item) for item in value.values())
    if isinstance(value, list):
        return any(has_date(item) for item in value)
    return not isinstance(value, str | bool | int | float)


def compare(text: str) -> None:
    """Both refuse it, or both read the same; or it is one of the things that no policy has."""
    ours: object
    theirs: object
    try:
        ours = plain(toml.read(text))
    except TomlError as error:
        ours = error
    try:
        theirs = tomllib.loads(text)
    except (ValueError, RecursionError):
        assert isinstance(ours, TomlError), "tomllib refuses it"
        return
    if isinstance(ours, TomlError):
        assert str(ours).startswith(OURS) or has_date(theirs), str(ours)
    else:
        assert ours == plain(theirs)


# Pieces that meet in every order; and strings of the characters that mean something.
PIECES = st.sampled_from(
    ["[[rule]]\n", "[[ rule ]] # c\n", "[rule]\n", "[", "]", "[[", "]]", "{", "}", ", ", ",", " = ",
     "=", ".", "\n", "\r\n", "\r", " ", "\t", "# c\n", "#", "a", "rule", "port = ", '"b"', "'c'",
     '"', "'", '"""', "'''", "\\", "\\n", "\\u0041", "\\uD800", "\\U0010ffff", "\\U00110000", "\\x",
     "\\ \n ", "true", "false", "inf", "-nan", "+", "-", "0", "1", "_", "12_3", "0x1F", "0o7",
     "0b1", "00", "1.5", ".5", "5.", "1e3", "1E-2", "1979-05-27", "07:32:00", "é", "\x00", "\x7f",
     "\x1f", "\u2028", "\ufeff", "a = 1\n", 'b = ["*", 5,]\n', "c = {d = 1, e = []}\n"]
)  # fmt: skip
SOUP = st.lists(PIECES, max_size=14).map("".join)
VALUES = st.recursive(
    PIECES
    | st.text(max_size=6).map(lambda s: f'"{s}"')
    | st.text("\"'\\\n ab", max_size=8).map(lambda s: f'"""{s}"""')
    | st.text("\"'\\\n ab", max_size=8).map(lambda s: f"'''{s}'''")
    | st.text("0123456789_.eExob+-", max_size=8)
    | st.integers().map(str)
    | st.floats().map(repr),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(inner, max_size=3).map(lambda items: "[\n" + ",# c\n".join(items) + "\n]")
        | st.lists(inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"k{n} = {item}" for n, item in enumerate(items)) + "}"
        )
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(["a", "b", "rule", '"a"', "'b'", '"r\\u0075le"', "1", "-", "", "a.b", "é"])
LINES = st.one_of(
    st.builds(lambda key, value: f"{key} = {value}\n", KEYS, VALUES),
    st.builds(lambda key: f"[[{key}]]\n", KEYS),
    st.builds(lambda key: f"[{key}]\n", KEYS),
    PIECES,
)
DOCUMENTS = st.lists(LINES, max_size=6).map("".join)


@given(SOUP | DOCUMENTS | st.text(max_size=40))
@settings(deadline=None, max_examples=3000)
@example("a = " + "[" * 5000)
@example("a = " + "1" * 5000)
@example('a = """a"""""')
@example('a = """\\')
@example('a = """\\ \n\t x"""')
@example('a = """\\ x"""')
@example("a = '''\n'''''")
@example('a = """"""')
@example('a = """\r\n\r\n"""')
@example('a = "\\uD800"')
@example('a = "\\U00110000"')
@example('a = "\\\n b"')
@example("a = '\x00'")
@example("a = [[1], {b = 2}]\n[[a]]\n")
@example("[a]\n[[a]]\n")
@example("[[a]]\n[a]\n")
@example("   ")
@example("a = 1 # \x01")
@example("a = [ # \x01\n]")
@example("a = {b = 1,}")
@example("a = {\nb = 1}")
@example("[ [a]]\n")
@example("[[a] ]\n")
def test_whatever_the_text_tomllib_reads_the_same(text: str) -> None:
    compare(text)


def whole(table: Table) -> Iterator[tuple[str, int]]:
    """Every key beneath, with its line."""
    for key, value in table.items():
        yield key, table.lines[key]
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, Table):
                yield from whole(inner)


def test_it_knows_the_line_of_every_key_and_table() -> None:
    text = (
        "one = '''\n[[rule]]\n'''\n"
        "\r\n"
        "[[rule]]  # two rules\r\n"
        "five = [\n  # a comment\n  {eight = 1},\n]\n"
        "[[rule]]\n\n"
        '"t\\u0077elve" = 1\n'
        "[fourteen]"
    ).replace("fourteen", "thirteen")
    document = toml.read(text)
    assert dict(whole(document)) == {
        "one": 1, "rule": 5, "five": 6, "eight": 8, "twelve": 12, "thirteen": 13,
    }  # fmt: skip
    rules = document["rule"]
    assert isinstance(rules, list)
    assert [table.line for table in rules] == [5, 10]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[rule]\n", "expected ]] (at line 1, column 7)"),
        ("a = 1\n\nb = \n", "expected a value (at line 3, column 5)"),
        ("a = 1\nb = 1\na = 2\n", "a is there already, in line 1 (at line 3, column 6)"),
        ('a = "b\n', 'expected " or another character of a string (at line 1, column 7)'),
        ('a = """b\n\n', 'expected """ or another character of a string (at line 3, column 1)'),
        ('a = "\\x"\n', "a backslash that stands for nothing (at line 1, column 7)"),
        ("a = 1 b\n", "expected the end of the line (at line 1, column 7)"),
        ("= 1\n", "expected a key (at line 1, column 1)"),
        ("a 1\n", "expected = (at line 1, column 3)"),
        ("a = [1 2]\n", "expected ] (at line 1, column 8)"),
        ("a = {b = 1\n", "expected } (at line 1, column 11)"),
        ("a = " + "1" * 5000, "no number is that long (at line 1, column 5005)"),
        ("a = 1979-05-27\n", "expected a value (at line 1, column 5)"),
        ("a.b = 1\n", "a policy has no dotted keys (at line 1, column 2)"),
        ("[a.b]\n", "a policy has no dotted keys (at line 1, column 3)"),
        ("a = " + "[" * 10, "nested too deep (at line 1, column 14)"),
    ],
)
def test_what_it_cannot_read_it_says_where(text: str, why: str) -> None:
    with pytest.raises(TomlError) as caught:
        toml.read(text)
    assert str(caught.value) == why


def test_lines_are_counted_on_and_not_anew_for_every_key() -> None:
    looked_at = []

    class Text(str):
        def count(self, what: str, start: int, end: int) -> int:  # type: ignore[override]
            looked_at.append(end - start)
            return super().count(what, start, end)

    keys = "".join(f"k{number} = 1\n" for number in range(1000))
    reader = toml._Reader("")
    reader.text = Text(keys)
    assert len(reader.document()) == 1000
    assert sum(looked_at) <= len(keys)
