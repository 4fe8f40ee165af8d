"""`ttybroker`: the command for people. Each import stands where it is needed, for a quick start."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

DONE, REFUSED, USAGE = 0, 1, 2
_SIGINT = 2  # signal(7)
_BETWEEN = 0.5  # seconds between two looks at a line
_MOMENT = 0.2  # seconds in which a program that asks again at once has its port back


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit status: 0 done, 1 refused or failed, 2 usage; `run`: the program's."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        from ttybroker.run import main as run

        return run(arguments[1:])
    _fill_standard()
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except OSError as error:  # a BrokerError is one
        from ttybroker.ending import forget_output

        if not isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
            _say(_line(error))
        forget_output()
    except KeyboardInterrupt:
        from ttybroker.ending import end_by

        _say("interrupted")
        return end_by(_SIGINT)
    return REFUSED


def _run(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in ("--version", "-V"):
        from ttybroker.version import VERSION

        print(f"ttybroker {VERSION}")
        return DONE
    if first == "term":
        from ttybroker.term import main as term

        return term(arguments[1:])
    if arguments and first not in (*_COMMANDS, "-h", "--help"):
        from ttybroker.names import did_you_mean

        hint = did_you_mean(first, _COMMANDS) or "; see ttybroker --help"
        what = "option" if first.startswith("-") else "command"
        _say(f"{first or repr('')}: no such {what}{hint}")
        return USAGE
    try:
        options, rest = _parser().parse_known_args(arguments)
    except SystemExit:  # after --help; since Python 3.13 argparse hides that it could not write
        sys.stdout.flush()
        raise
    if rest:
        _say(f"{first}: not understood: {' '.join(rest)}; see ttybroker {first} --help")
        return USAGE
    if wrong := _not_a_name(options):
        _say(wrong)
        return USAGE
    command = _COMMANDS[options.command]
    assert command is not None  # those that are were run above
    return command(options)


def _not_a_name(options: argparse.Namespace) -> str:
    """Return an error line for the first of the ports that is not a port's name; "" if all are."""
    from ttybroker.wire import valid_name

    named = getattr(options, "port", None)
    for name in [named] if isinstance(named, str) else named or []:
        if not valid_name(name):
            from ttybroker.names import not_a_name

            return not_a_name(name)
    return ""


def _parser() -> argparse.ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            _say(f"{message}; see {self.prog} --help")
            raise SystemExit(USAGE)

    parser = Parser(prog="ttybroker", description="Serial ports by name, from the broker.")
    parser.add_argument("-V", "--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the ports you may use, and who has them")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.add_argument("port", nargs="*", help="show only these ports; default: all")
    watch = "keep running, and show the list again when it changes; with --json one line each time"
    listing.add_argument("--watch", action="store_true", help=watch)
    copies = "name every process that has the port open; only root sees those of others"
    about = listing.add_mutually_exclusive_group()
    about.add_argument("--copies", action="store_true", help=copies)
    details = (
        "also show speed, modem lines, bytes and errors of your ports, and what each device is"
    )
    about.add_argument("--details", action="store_true", help=details)
    commands.add_parser("term", help="a terminal on a port: pyserial's miniterm", add_help=False)
    commands.add_parser("run", help="run any program on brokered ports", add_help=False)
    revoke = commands.add_parser("revoke", help="take a port back from its holder")
    revoke.add_argument("port")
    hold = "keep the port from its holder's user for that long"
    revoke.add_argument("--hold", metavar="SECONDS", default="0", help=hold)
    check = commands.add_parser("check", help="would it be allowed, and by which rule")
    check.add_argument("--user", help="ask about another user; only root and admins may")
    check.add_argument("--json", action="store_true", help="for programs")
    about = check.add_mutually_exclusive_group(required=True)
    about.add_argument(
        "--broker", action="store_true", help="show how the broker itself is confined"
    )
    about.add_argument("port", nargs="?")
    suggest = commands.add_parser("suggest", help="print a policy rule for a port's device")
    suggest.add_argument("port")
    history = commands.add_parser("history", help="who had a port, from the journal")
    history.add_argument("port")
    history.add_argument("--json", action="store_true", help="for programs")
    commands.add_parser("demo", help="see it work, on a pty (needs root)")
    return parser


def _list(options: argparse.Namespace) -> int:
    from ttybroker import client, listing

    if options.copies and not options.port:
        _say("--copies: of which port? write: ttybroker list PORT --copies")
        return USAGE
    if options.copies and options.watch:
        _say("--copies: cannot be watched; write: sudo watch ttybroker list PORT --copies")
        return USAGE
    with client.connect() as broker:
        ports, lines = _look(broker, options)
        there = {port.name for port in ports}
        missing = [name for name in options.port if name not in there]
        if missing:
            known = [port.name for port in broker.ports()]
        pid = broker.status()[0] if options.copies else 0
        pids = broker.shares_pids()
        if options.watch and not missing:
            from ttybroker.watching import watch

            watch(broker, tuple(options.port), details=options.details, as_json=options.json)
    if options.copies:
        _show_copies(ports, pid, options.json)
    elif options.json:
        listing.show_json(ports, lines, details=options.details)
    elif ports or not missing:
        listing.show(ports, lines, details=options.details, pids=pids)
    if not options.json:
        _warn_of_probes(ports)
    for name in missing:
        from ttybroker.names import did_you_mean

        step = did_you_mean(name, known) or f"; to see why: ttybroker check {name}"
        _say(f"{name}: no port that you may use{step}")
    return REFUSED if missing else DONE


def _look(
    broker: Client, options: argparse.Namespace
) -> tuple[list[PortInfo], dict[str, Line] | None]:
    """Return the ports, and where they are to be shown also their lines by name.

    Bytes a second need two looks.
    """
    names = tuple(options.port)
    shown = options.details or (options.json and not options.copies)
    if options.watch or not shown:
        return broker.ports(names), None
    import errno
    import time

    from ttybroker.errors import BrokerError
    from ttybroker.facts import Line
    from ttybroker.wire import RECEIVED

    try:
        ports = broker.ports(names, details=True)
    except BrokerError as error:
        if options.details or error.errno != errno.EOPNOTSUPP:
            raise
        return broker.ports(names), None  # an older broker knows nothing of lines
    began, before = time.monotonic(), {port.name: dict(port.facts) for port in ports}
    if any(RECEIVED in facts for facts in before.values()):
        time.sleep(_BETWEEN)
        ports = broker.ports(names, details=True)
    since = time.monotonic() - began
    lines = {
        port.name: Line(dict(port.facts), before.get(port.name), since)
        for port in ports
        if port.facts
    }
    return ports, lines


def _warn_of_probes(ports: list[PortInfo]) -> None:
    from ttybroker.modems import probed

    devices = probed([port.device for port in ports])
    names = [port.name for port in ports if port.device in devices]
    if names:
        what = f"ModemManager runs, and may write to {', '.join(names)} even while somebody has it"
        way = "to prevent that, give the port an alias (ttybroker suggest), and use ttybrokerd"
        _say(f"{what}; {way} --udev-rules")


def _show_copies(ports: list[PortInfo], broker: int, json: bool) -> None:
    """Print who has these ports open; broker: its pid."""
    import os

    from ttybroker import listing
    from ttybroker.copies import copies

    found = {}
    for port in ports:
        try:
            found[port.name] = copies(port.device)
        except OSError as error:
            _say(f"{port.name}: {port.device}: {error.strerror}")
    (listing.show_copies_json if json else listing.show_copies)(found, broker)
    if found and os.geteuid() != 0:
        _say("processes of other users are not shown; to see all, use sudo")


def _revoke(options: argparse.Namespace) -> int:
    from ttybroker import client
    from ttybroker.asking import MAX_WAIT
    from ttybroker.errors import BrokerError
    from ttybroker.listing import write
    from ttybroker.names import similar

    port = options.port
    try:
        hold = float(options.hold)
    except ValueError:
        hold = -1.0
    if not 0 <= hold <= MAX_WAIT:
        _say(f"--hold {options.hold}: must be a number of seconds, such as 60; a day at most")
        return USAGE
    with client.connect() as broker:
        before, free = _holder(broker, port)
        try:
            withdrawn = broker.revoke(port, hold)
        except BrokerError as error:
            near = "" if error.meant else similar(broker, port)
            _say(f"{port}: nobody has it" if free else f"{error}{near}")
            return REFUSED
        write(f"{port}: taken back; {_now(broker, port, before, kept=hold > 0)}")
    if hold:
        print(f"{port}: kept from {_user_of(before)} for {hold:g} s")
    if withdrawn:
        requests = "1 waiting request" if withdrawn == 1 else f"{withdrawn} waiting requests"
        print(f"{port}: withdrawn: {requests} of the same user")
    return DONE


def _now(broker: Client, name: str, before: Holder | None, *, kept: bool) -> str:
    """Say who has the port a moment after it was taken back, and who may open it again.

    before: its holder until then. A program decides for itself when it asks again, so no moment is
    late enough to know that it will not. kept: it is kept from the holder's user.
    """
    import time

    from ttybroker.holding import has_ended, holding, with_what

    time.sleep(_MOMENT)
    holder, _ = _holder(broker, name)
    hint = f"; to keep it free for a while: ttybroker revoke --hold 60 {name}"
    if holder is not None:
        again = before is not None and before.uid == holder.uid and holder.how == "lease"
        return f"now {holding(holder)}{f' again{hint}' if again else ''}"
    if kept or before is None or has_ended(before):
        return "it is free"
    return f"it is free now, but {with_what(before)} may open it again{hint}"


def _user_of(holder: Holder | None) -> str:
    from ttybroker.users import named

    if holder is None or holder.uid is None:
        return "the user who had it"
    return named(holder).user or f"uid {holder.uid}"


def _holder(broker: Client, name: str) -> tuple[Holder | None, bool]:
    """Return who has the port, and whether it is known to be free, if the caller may know."""
    ports = broker.ports((name,))
    return (ports[0].holder, ports[0].state == "free") if ports else (None, False)


def _check(options: argparse.Namespace) -> int:
    if options.broker:
        if options.user is not None:
            _say("--user: goes with a port, not with --broker")
            return USAGE
        return _check_broker(options.json)
    from ttybroker import client
    from ttybroker.names import similar

    uid, groups = (None, ()) if options.user is None else _user(options.user)
    with client.connect() as broker:
        verdict = broker.check(options.port, uid=uid, groups=groups)
        why = "" if verdict.allowed else _why_not(verdict, options.user)
        if not verdict.allowed and not verdict.known:
            why += similar(broker, options.port)
    if options.json:
        import json

        print(json.dumps(verdict_record(options.port, verdict, why)))
    else:
        print(f"{options.port}: {why or f'allowed by rule {verdict.rule}'}")
    return DONE if verdict.allowed else REFUSED


def _why_not(verdict: Verdict, user: str | None) -> str:
    """Return the cause of a refusal and the next step. user: another one who was asked about."""
    if user is None:
        from ttybroker.login import too_old

        return verdict.message + (too_old() if verdict.known else "")
    # the administrator asks, and is not the one who is refused
    return verdict.message.replace("you this port; ask the administrator", f"{user} this port")


def verdict_record(port: str, verdict: Verdict, why: str) -> dict[str, object]:
    """Return the fields of an answer for a program; why: it is refused."""
    return {"port": port, "allowed": verdict.allowed, "rule": verdict.rule or None,
            "reason": why or None}  # fmt: skip


def _suggest(options: argparse.Namespace) -> int:
    import os
    import stat

    from ttybroker.suggest import is_port, rule
    from ttybroker.users import name_of

    device, uid = f"/dev/{options.port}", os.getuid()
    try:
        there = stat.S_ISCHR(os.stat(device).st_mode)
    except OSError:
        there = False
    if not there:
        from ttybroker.names import did_you_mean

        what = "; is it plugged in? Write the kernel's name of the port, such as ttyUSB0"
        near = did_you_mean(options.port, filter(is_port, _devices()))
        _say(f"{options.port}: there is no device {device}{near or what}")
        return REFUSED
    name = os.path.basename(os.path.realpath(device))  # a link of udev's has no rule by its name
    if not is_port(name):
        what = "no serial port; a kernel's name is meant, such as ttyUSB0"
        _say(f"{options.port}: {os.path.realpath(device)} is {what}")
        return REFUSED
    allow = "%active" if uid == 0 else name_of(uid) or uid
    print("# save as /etc/ttybroker/policy.d/NAME.toml; then: sudo systemctl reload ttybroker")
    print(rule(name, device, allow), end="")
    return DONE


def _devices() -> list[str]:
    """Return the kernel's names of terminal devices, [] without sysfs."""
    import os

    try:
        return os.listdir("/sys/class/tty")
    except OSError:
        return []


def _history(options: argparse.Namespace) -> int:
    from ttybroker import history

    port = options.port
    try:
        found = history.read(port)
    except history.NoJournal as error:
        _say(f"{port}: the journal cannot be read: {error}{history.hint(port)}{_near(port)}")
        return REFUSED
    if options.json:
        history.show_json(found)
    elif found:
        history.show(found)
    else:
        print(f"{port}: the journal has no record of a holder{_near(port) or history.hint(port)}")
    return DONE


def _near(port: str) -> str:
    """Return "; did you mean NAME?" of a port that the user may use, "" also without a broker."""
    from ttybroker import client
    from ttybroker.errors import BrokerError
    from ttybroker.names import similar

    try:
        with client.connect() as broker:
            return similar(broker, port)
    except BrokerError:
        return ""


def _check_broker(json: bool) -> int:
    from ttybroker import confinement

    pid, facts = confinement.inspect()
    (confinement.show_json if json else confinement.show)(pid, facts)
    return DONE if all(fact.kept for fact in facts) else REFUSED


def _user(name: str) -> tuple[int, tuple[int, ...]]:
    """Return uid and groups of a user, by name or number. Exits with 2 if there is none.

    A number needs no account: a policy may name it, as that of a container's user.
    """
    import os
    import pwd

    from ttybroker.wire import NOBODY

    uid = int(name) if name.isdecimal() and name.isascii() and len(name) <= 10 else NOBODY
    try:
        entry = pwd.getpwuid(uid) if uid < NOBODY else pwd.getpwnam(name)
    except (KeyError, ValueError):
        if uid < NOBODY:
            return uid, ()
        _say(f"no such user: {name}")
        raise SystemExit(USAGE) from None
    return entry.pw_uid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))


def _demo(_options: argparse.Namespace) -> int:
    # Not in a new interpreter, which would not find what `make install` copies.
    try:
        from ttybrokerd.demo import main as demo
    except ImportError as error:
        from ttybroker.say import not_loaded

        _say(f"the demo needs the root side too: {not_loaded(error)}")
        return REFUSED
    return demo()


def _fill_standard() -> None:
    """Open /dev/null in place of each closed standard descriptor.

    Otherwise the next file to be opened, such as a port, would become standard input, output or
    error.
    """
    import os

    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (until our end)


def _say(line: str) -> None:
    print(f"ttybroker: {line}", file=sys.stderr)


def _line(error: OSError) -> str:
    """Return the text for a failed system call, with the file that it is about."""
    from ttybroker.errors import BrokerError

    if isinstance(error, BrokerError) or error.strerror is None:
        return str(error)
    if error.filename is None:
        return str(error.strerror)
    return f"{error.filename or repr('')}: {error.strerror}"


if TYPE_CHECKING:
    from collections.abc import Callable

    from ttybroker.client import Client
    from ttybroker.facts import Line
    from ttybroker.wire import Holder, PortInfo, Verdict

_COMMANDS: dict[str, Callable[[argparse.Namespace], int] | None] = {
    "list": _list,
    "run": None,
    "term": None,
    "revoke": _revoke,
    "check": _check,
    "suggest": _suggest,
    "history": _history,
    "demo": _demo,
}


if __name__ == "__main__":
    sys.exit(main())
