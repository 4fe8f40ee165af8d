"""`ttybroker`: the command for people. Each import stands where it is needed, for a quick start."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing costs every start 5 ms
if TYPE_CHECKING:
    import argparse

DONE, REFUSED = 0, 1


def main(argv: list[str] | None = None) -> int:
    """The command. Exit status: 0 done, 1 refused or failed, 2 usage; `run`: the program's."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["run"]:
        from ttybroker.run import main as run

        return run(arguments[1:])
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "term":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    from ttybroker.errors import BrokerError

    try:
        return _COMMANDS[options.command](options, rest)
    except BrokerError as error:
        print(f"ttybroker: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
    return REFUSED


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="ttybroker", description="Serial ports by name, from the broker."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the ports you may use, and who has them")
    listing.add_argument("--json", action="store_true", help="for programs")
    term = commands.add_parser(
        "term",
        help="a terminal on a port: pyserial's miniterm",
        epilog="All other arguments are miniterm's, such as 115200 --eol LF --filter colorize. "
        "It gives up the file system once it has the port: no upload (Ctrl-T Ctrl-U).",
    )
    term.add_argument("--wait", metavar="SECONDS", type=_seconds, help="queue for a busy port")
    term.add_argument("port")
    commands.add_parser("run", help="run any program on brokered ports", add_help=False)
    revoke = commands.add_parser("revoke", help="take a port back from its holder")
    revoke.add_argument("port")
    check = commands.add_parser("check", help="would it be allowed, and by which rule")
    check.add_argument("--user", help="ask for another user (root and admins)")
    check.add_argument("--json", action="store_true", help="for programs")
    about = check.add_mutually_exclusive_group(required=True)
    about.add_argument("--broker", action="store_true", help="how the broker itself is confined")
    about.add_argument("port", nargs="?")
    commands.add_parser("demo", help="see it work, on a pty (needs root)")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise ValueError
    return value


def _list(options: argparse.Namespace, _rest: list[str]) -> int:
    from ttybroker import client, listing

    with client.connect() as broker:
        ports = broker.ports()
    (listing.show_json if options.json else listing.show)(ports)
    return DONE


def _term(options: argparse.Namespace, rest: list[str]) -> int:
    from ttybroker import term

    term.main(options.port, options.wait, rest)
    return DONE


def _revoke(options: argparse.Namespace, _rest: list[str]) -> int:
    from ttybroker import client

    with client.connect() as broker:
        withdrawn = broker.revoke(options.port)
    print(f"{options.port}: taken back; it is free, or the next in the queue has it")
    if withdrawn:
        print(f"{options.port}: {withdrawn} waiting requests of the same user were withdrawn")
    return DONE


def _check(options: argparse.Namespace, _rest: list[str]) -> int:
    if options.broker:
        return _check_broker(options.json)
    from ttybroker import client

    uid, groups = (None, ()) if options.user is None else _user(options.user)
    with client.connect() as broker:
        verdict = broker.check(options.port, uid=uid, groups=groups)
    if options.json:
        import json

        answer = {"port": options.port, "allowed": verdict.allowed, "rule": verdict.rule or None}
        print(json.dumps(answer))
    elif verdict.allowed:
        print(f"{options.port}: allowed by rule {verdict.rule}")
    else:
        print(f"{options.port}: {verdict.message}")
    return DONE if verdict.allowed else REFUSED


def _check_broker(json: bool) -> int:
    from ttybroker import confinement

    pid, facts = confinement.inspect()
    (confinement.show_json if json else confinement.show)(pid, facts)
    return DONE if all(fact.kept for fact in facts) else REFUSED


def _user(name: str) -> tuple[int, tuple[int, ...]]:
    """uid and groups of a user, by name or number. Exits with 2 if there is none."""
    import os
    import pwd

    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        print(f"ttybroker: no such user: {name}", file=sys.stderr)
        raise SystemExit(2) from None
    return entry.pw_uid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))


def _demo(_options: argparse.Namespace, _rest: list[str]) -> int:
    import importlib.util
    import os

    if importlib.util.find_spec("ttybrokerd") is None:
        what = "the demo needs the root side too: apt install ttybroker"
        print(f"ttybroker: {what}", file=sys.stderr)
        return REFUSED
    return os.execv(sys.executable, [sys.executable, "-m", "ttybrokerd.demo"])


_COMMANDS = {
    "list": _list,
    "term": _term,
    "revoke": _revoke,
    "check": _check,
    "demo": _demo,
}


if __name__ == "__main__":
    sys.exit(main())
