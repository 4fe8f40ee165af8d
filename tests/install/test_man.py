"""The manual pages: well-formed, and about all of the options and keys there are, and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ttybroker import cli, confinement, listing, wire
from ttybroker.copies import Copy
from ttybroker.facts import Line
from ttybroker.history import Lease, Record
from ttybroker.run.command import USAGE
from ttybroker.wire import Holder, PortInfo
from ttybrokerd.prepare import policy
from ttybrokerd.prepare.accounts import Accounts
from ttybrokerd.prepare.policy import PolicyError

PAGES = Path(__file__).parents[2] / "packaging" / "man"
OPTION = re.compile(r"(?<![\w-])--?([a-zA-Z][a-z-]*)")


def page(name: str) -> str:
    return (PAGES / name).read_text()


def documented(source: str) -> set[str]:
    """The options of a page, mdoc(7): what it uses Fl for are its own."""
    pairs = re.findall(r"\bFl (\S+)(?: \| (-\S+))?", source)
    return {name.lstrip("-") for pair in pairs for name in pair} - {""}


def options(*command: str) -> set[str]:
    """What a command's --help has, without the dashes."""
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], check=True, capture_output=True, text=True
    )
    return set(OPTION.findall(done.stdout))


@pytest.mark.parametrize("name", sorted(path.name for path in PAGES.iterdir()))
def test_it_is_well_formed(name: str) -> None:
    """By both programs that show such pages."""
    command = ["mandoc", "-T", "lint", "-W", "warning", PAGES / name]
    lint = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (lint.returncode, lint.stdout) == (0, "")
    command = ["man", "--warnings", "-l", "-Tutf8", PAGES / name]
    shown = subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert (shown.returncode, shown.stderr) == (0, "")


def test_ttybroker_has_every_option_of_every_command() -> None:
    commands = ["list", "term", "revoke", "check", "suggest", "history", "demo"]
    found = options("ttybroker.cli").union(*(options("ttybroker.cli", name) for name in commands))
    assert documented(page("ttybroker.1")) == found | set(OPTION.findall(USAGE)) | {"h"}
    assert set(re.findall(r"^\.It Cm (\S+)", page("ttybroker.1"), re.M)) == {*commands, "run"}


def test_ttybroker_has_every_field_that_programs_get(capsys: pytest.CaptureFixture[str]) -> None:
    """If this fails, name the field in packaging/man/ttybroker.1, under --json, as its others."""
    held = PortInfo("ttyS0", "/dev/ttyS0", "busy", "rule", holder=Holder())
    port = listing.record(held, details=True)
    holder, line = port["holder"], Line({wire.SPEED: 9600}).record()
    assert isinstance(holder, dict) and line is not None
    listing.show_copies_json({"ttyS0": [Copy(1, 0, "cat", (3,))]}, 2)
    (copy,) = json.loads(capsys.readouterr().out)
    confinement.show_json(1, [confinement.Fact("", "", "")])
    broker = json.loads(capsys.readouterr().out)
    check = cli.verdict_record("ttyS0", wire.Verdict(True, True, "", ""), "")
    for begin, end, fields in (
        (".It Cm list", ".It Fl -watch", {*port, *holder, *line}),
        (".It Fl -copies", ".It Cm run", {*copy}),
        (".It Cm check", ".It Cm revoke", {*check, *broker, *broker["facts"][0]}),
        (".It Cm history", ".It Cm demo", {*Lease(Record("{}"), None).fields()}),
    ):
        text = page("ttybroker.1").partition(begin)[2].partition(end)[0]
        named = set(re.findall(r"^\.Ic (\S+)", text, re.M))
        assert fields - named == set(), f"not in ttybroker(1), {begin}"
        assert named - fields == set(), f"in ttybroker(1), {begin}, and nowhere else"


def test_ttyrun_has_every_option() -> None:
    assert documented(page("ttyrun.1")) == set(OPTION.findall(USAGE)) | {"version", "help"}


def test_ttybrokerd_has_every_option() -> None:
    assert documented(page("ttybrokerd.8")) == options("ttybrokerd.daemon") | {"h", "help"}


def test_the_policys_page_has_every_key_and_its_example_is_one() -> None:
    source = page("ttybroker-policy.5")
    known = set[str]()
    for text in ("no-such-key = 1", '[[rule]]\nport = "ttyS0"\nno-such-key = 1'):
        with pytest.raises(PolicyError, match="unknown key; known are") as error:
            policy.parse([policy.Text("policy", text.encode())], Accounts())
        known.update(str(error.value).rpartition("known are ")[2].split(", "))
    assert set(re.findall(r"^\.It Ic (\S+)", source, re.M)) == known - {"rule"}
    example = source.partition(".Bd -literal\n")[2].partition(".Ed")[0]
    rules = policy.parse([policy.Text("policy", example.encode())], Accounts()).rules
    assert len(tomllib.loads(example)["rule"]) == len(rules) == 4
