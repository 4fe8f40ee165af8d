"""The wire decoder under atheris, coverage-guided: python -m attack.fuzz_wire SECONDS [SEED]

The rule: bytes are a message or `Malformed`, and nothing else happens; a request has one form
alone; what was read can be written and read again; and every value that can be written comes back
as it was. When the rule is broken libFuzzer prints the bytes, and the exit status is not 0.
"""

from __future__ import annotations

import math
import os
import secrets
import subprocess
import sys
import tempfile
import time
from typing import Any

import atheris

with atheris.instrument_imports(include=["ttybroker.asking", "ttybroker.wire"]):
    from ttybroker import asking, wire

U16, U32 = 0xFFFF, 0xFFFFFFFF
HOLDER = wire.Holder(1000, "", 12, "picocom", 1e9, "lease", "test")
REQUESTS = [
    wire.Open("ttyS0", 1000, 7, 8, 3, b"s" * 16, "test"),
    wire.List(3, 1, ("a", "b")),
    wire.Revoke("gps", 5),
    wire.Check("ttyS0", 1000, (1, 2)),
    wire.Connect(),
    wire.Status(),
]
REPLIES = [
    wire.Grant(b"s" * 16, True),
    wire.Done(1),
    wire.Refused(16, "busy", HOLDER, "wait"),
    wire.Ports((wire.PortInfo("a", "/dev/a", "free", "r", 1, HOLDER, HOLDER, (HOLDER,)),), True),
    wire.Verdict(True, False, "rule", "text"),
    wire.Running(7, False, "1.0"),
    wire.Waiting("slow", 2, 3, 4, HOLDER),
]
SEEDS: list[bytes] = [
    *(asking.encode_request(request, version) for request in REQUESTS for version in wire.VERSIONS),
    *(wire.encode_reply(reply, version) for reply in REPLIES for version in wire.VERSIONS),
    wire.encode_reply(wire.Lent(1000, HOLDER)),
    wire.encode_reply(wire.Ending(1000, "why")),
]


class Count:
    """What was done, said every half a minute and at the end."""

    def __init__(self) -> None:
        self.runs = self.requests = self.replies = self.values = self.limit = 0
        self.begin = self.said = time.monotonic()

    def __str__(self) -> str:
        seconds = time.monotonic() - self.begin
        return (
            f"attack wire: {self.runs} inputs in {seconds:.0f} s ({self.runs / seconds:.0f}/s), "
            f"{self.requests} read as requests, {self.replies} as replies, "
            f"{self.values} values written and read back"
        )

    def say(self) -> None:
        """Print the line."""
        print(self, flush=True)
        self.said = time.monotonic()


count = Count()


def read_request(data: bytes) -> None:
    """Bytes of anybody, to the root side."""
    try:
        request = wire.decode_request(data)
    except wire.Malformed:
        return
    count.requests += 1
    assert asking.encode_request(request, data[0]) == data, "a request in two forms"


def read_reply(data: bytes) -> None:
    """Bytes of anybody, to the user side."""
    try:
        reply = asking.decode_reply(data)
    except wire.Malformed:
        return
    count.replies += 1
    if data[0] == 1 and isinstance(reply, wire.Refused):
        reply.holder = None  # it is in the text already, and would get there twice
    again = asking.decode_reply(wire.encode_reply(reply, data[0]))
    assert again == reply, "not read as it was written"


def write_and_read(data: bytes) -> None:
    """Any value that the program could build; and the same with a byte changed."""
    count.values += 1
    draw = atheris.FuzzedDataProvider(data)
    at, byte = draw.ConsumeIntInRange(0, U16), draw.ConsumeIntInRange(0, 255)
    request, reply = any_request(draw), any_reply(draw)
    for value, encode, decode, read in (
        (request, asking.encode_request, wire.decode_request, read_request),
        (reply, wire.encode_reply, asking.decode_reply, read_reply),
    ):
        raw = encode(value)
        assert decode(raw) == value, "not the same when it is read"
        at %= len(raw)
        read(raw[:at] + bytes([byte]) + raw[at + 1 :])


def any_name(draw: Any) -> str:
    """A name as it comes out of a datagram: any bytes."""
    return str(draw.ConsumeBytes(draw.ConsumeIntInRange(0, 80)).decode("utf-8", "surrogateescape"))


def any_request(draw: Any) -> wire.Request:
    """A request of version 2 with fields of their whole range."""
    kind = draw.ConsumeIntInRange(0, 5)
    if kind == 0:
        numbers = [draw.ConsumeIntInRange(0, U32) for _ in range(3)]
        session = draw.ConsumeBytes(16).ljust(16, b"\0")
        return wire.Open(any_name(draw), *numbers, draw.ConsumeIntInRange(0, 255), session,
                         any_text(draw))  # fmt: skip
    if kind == 1:
        names = tuple(any_text(draw) for _ in range(draw.ConsumeIntInRange(0, 8)))
        return wire.List(draw.ConsumeIntInRange(0, U32), draw.ConsumeIntInRange(0, 3), names)
    if kind == 2:
        return wire.Revoke(any_name(draw), draw.ConsumeIntInRange(0, U32))
    if kind == 3:
        uid = draw.PickValueInList([None, draw.ConsumeIntInRange(0, U32 - 1)])
        most = draw.ConsumeIntInRange(0, wire.MAX_GROUPS)
        groups = tuple(draw.ConsumeIntListInRange(most, 0, U32))
        return wire.Check(any_name(draw), uid, groups)
    return wire.Connect() if kind == 4 else wire.Status()


def any_text(draw: Any) -> str:
    """A text without surrogates, which no encoder of ours is given."""
    return str(draw.ConsumeUnicodeNoSurrogates(draw.ConsumeIntInRange(0, 40)))


def any_holder(draw: Any) -> wire.Holder | None:
    """A holder, or none."""
    if draw.ConsumeBool():
        return None
    uid = draw.PickValueInList([None, draw.ConsumeIntInRange(0, U32 - 1)])
    pid = draw.PickValueInList([None, draw.ConsumeIntInRange(1, 2**31 - 1)])
    moment = draw.ConsumeFloat()
    since = moment if math.isfinite(moment) and 0 < moment < 2.0**37 else None
    return wire.Holder(uid, "", pid, any_text(draw), since, any_text(draw), any_text(draw))


def any_row(draw: Any) -> wire.PortInfo:
    """A row with fields of their whole range."""
    texts = [any_text(draw), any_text(draw), f"s{any_text(draw)}", any_text(draw)]
    holders = [any_holder(draw) for _ in range(draw.ConsumeIntInRange(0, 3))]
    copies = tuple(holder for holder in holders if holder is not None)
    number = draw.ConsumeIntInRange(0, 255)
    fact = number, draw.ConsumeIntInRange(0, 2**37 - 1 if number == wire.KEPT else 2**63 - 1)
    return wire.PortInfo(*texts, draw.ConsumeIntInRange(0, U16), any_holder(draw),
                         any_holder(draw), copies, (fact,))  # fmt: skip


def any_reply(draw: Any) -> wire.Reply:
    """A reply of version 2 with fields of their whole range."""
    kind = draw.ConsumeIntInRange(0, 7)
    if kind == 0:
        number = draw.ConsumeIntInRange(0, U16)
        return wire.Refused(number, any_text(draw), any_holder(draw), any_text(draw))
    if kind == 1:
        rows = [any_row(draw) for _ in range(draw.ConsumeIntInRange(0, 4))]
        return wire.Ports(tuple(rows), draw.ConsumeBool())
    if kind == 2:
        flags = (draw.ConsumeBool(), draw.ConsumeBool())
        return wire.Verdict(*flags, any_text(draw), any_text(draw))
    if kind == 3:
        level = draw.ConsumeIntInRange(0, 255)
        return wire.Running(level, draw.ConsumeBool(), any_text(draw))
    if kind == 4:
        return wire.Grant(draw.ConsumeBytes(16).ljust(16, b"\0"), draw.ConsumeBool())
    if kind == 5:
        numbers = (draw.ConsumeIntInRange(0, 255), draw.ConsumeIntInRange(0, U16))
        left = draw.ConsumeIntInRange(0, U32)
        return wire.Waiting(any_text(draw), *numbers, left, any_holder(draw))
    if kind == 6:
        return wire.Lent(draw.ConsumeIntInRange(0, U32), any_holder(draw))
    if kind == 7:
        return wire.Ending(draw.ConsumeIntInRange(0, U32), any_text(draw))
    return wire.Done(draw.ConsumeIntInRange(0, U16))


def one(data: bytes) -> None:
    """One input, in all three ways; also behind a head that is right, or few would get past it."""
    count.runs += 1
    headed = (bytes([version]) + data[:1] + b"\0\0" + data[1:] for version in wire.VERSIONS)
    for raw in (data, *headed):
        read_request(raw)
        read_reply(raw)
    if count.runs % 4 == 0:  # drawing a value costs more than reading one
        write_and_read(data)
    now = time.monotonic()
    if now - count.said > 30 or now - count.begin > count.limit >= count.said - count.begin:
        count.say()


def fuzz(seconds: int, seed: int, corpus: str) -> None:
    """The process that libFuzzer owns. Does not return."""
    count.limit = seconds
    where = f"{tempfile.gettempdir()}/ttybroker-wire-"
    options = [f"-max_total_time={seconds}", f"-max_len={wire.MAX_REQUEST + 64}",
               f"-artifact_prefix={where}", f"-seed={seed}"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, corpus], one)
    atheris.Fuzz()


def main() -> int:
    """Run it, and say in one line what it came to."""
    seconds = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(1 << 31) + 1
    with tempfile.TemporaryDirectory(prefix="ttybroker-fuzz-") as corpus:
        for number, data in enumerate(SEEDS):
            with open(os.path.join(corpus, f"seed-{number:03}"), "wb") as file:
                file.write(data)
        print(f"attack wire: {seconds} s from seed {seed}", flush=True)
        command = [sys.executable, "-m", "attack.fuzz_wire", str(seconds), str(seed), corpus]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            assert child.stderr is not None
            last = covered = ""
            for line in child.stderr:
                last = (last + line)[-4000:]
                covered = line.partition("cov: ")[2].partition(" lim")[0] or covered
        found = len(os.listdir(corpus))
    print(last if child.returncode else
          f"attack wire: nothing found; branches covered {covered}, corpus {found}")  # fmt: skip
    return child.returncode


if __name__ == "__main__":
    if len(sys.argv) == 4:
        fuzz(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    sys.exit(main())
