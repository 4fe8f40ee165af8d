"""Each example of docs/python.md and of the README runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import errno
import inspect
import io
import os
import re
import time

import pytest
import serial_asyncio_fast  # noqa: F401 (what an example imports is here already)

import ttybroker
from docs.blocks import Block, blocks
from support.processes import ROOT
from support.rig import Rig
from support.users import NOBODY
from support.waiting import TIMEOUT
from ttybroker import aio, client, errors, lending, port, wire
from ttybrokerd import backend
from ttybrokerd.root.log import Log

pytestmark = pytest.mark.root

EXAMPLES = blocks("docs/python.md") + blocks("README.md")
PAUSE = 0.005  # seconds between looks for somebody who opens the port: a pty's far end has no event


@pytest.fixture
def stage(rig: Rig) -> Rig:
    """The ports of the page: ttyS0 echoes, and `unplugged` is an alias that leads nowhere."""
    pty = rig.port("ttyS0")
    rig.port("backup")
    nowhere = 'port = "unplugged"\ndevice = "/dev/serial/by-id/usb-unplugged"\nallow = ["*"]'
    rig.rules.append(f"[[rule]]\n{nowhere}\n")
    rig.child(NOBODY, lambda _chat: _echo(pty.master), keep=[pty.master])
    return rig


def _echo(far: int) -> None:
    while True:
        try:
            os.write(far, os.read(far, 4096))
        except OSError:  # EIO: nobody has the port now
            time.sleep(PAUSE)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.name)
def test_an_example_does_what_its_page_says(block: Block, stage: Rig) -> None:
    as_root = block.code.startswith("# as root")
    if as_root:
        stage.write_policy()
    else:
        stage.daemon()
    code = block.code.replace("/etc/ttybroker/policy.toml", str(stage.policy))
    code = code.replace("/run/lock", str(stage.locks))

    def run(_chat: object) -> str:
        os.environ["TTYBROKER_SOCKET"] = str(stage.socket)
        return _run(code, block.name)

    printed = stage.child(0 if as_root else NOBODY, run).result(TIMEOUT)
    if as_root:
        stage.orphan().wait()  # the backend ends with its program
    assert block.output is None or printed == block.output


def _run(code: str, name: str) -> str:
    vars(backend)["Log"] = lambda **_options: Log(journal="/nonexistent", quiet=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    return out.getvalue()


def test_the_page_has_every_public_name() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    names = set(ttybroker.__all__) | set(wire.Holder._fields)
    names |= {name for name, found in vars(aio).items() if inspect.iscoroutinefunction(found)
              and not name.startswith("_")}  # fmt: skip
    names |= {"connect", "connection_for_child", "tell_why", "init_backend"}
    names |= {name for name, found in vars(client.Client).items()
              if inspect.isfunction(found) and not name.startswith("_")}  # fmt: skip
    names |= {"yields", "lent", "on_lent", "on_back"}
    for name in names:
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", page), name


def test_the_page_has_every_class_of_error_with_its_errno() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([A-Z, ]+) \|", page, re.M))
    of_class = {"PortLent": ["EBUSY"]}  # which no answer of a broker is
    for number, kind in errors.BY_ERRNO.items():
        of_class.setdefault(kind.__name__, []).append(errno.errorcode[number])
    assert rows == {name: ", ".join(numbers) for name, numbers in of_class.items()}


def test_what_make_docs_shows_has_a_docstring() -> None:
    shown: list[object] = [getattr(ttybroker, name) for name in ttybroker.__all__]
    shown += [aio.open_fd, aio.open_tty, backend.init_backend, client.connect]
    shown.append(client.connection_for_child)
    for kind in (client.Client, port.BrokeredSerial, lending.YieldingSerial):
        shown += [found for name, found in vars(kind).items()
                  if inspect.isfunction(found) and not name.startswith("_")
                  and found.__qualname__.startswith(kind.__name__)]  # fmt: skip
    assert [found for found in shown if not inspect.getdoc(found)] == []
