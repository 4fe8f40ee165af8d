"""What `ttybrokerd` does with the options that make it end, and its usage and help."""

from __future__ import annotations

import os
import sys

from ttybroker.ending import forget_output
from ttybroker.version import VERSION
from ttybroker.wire import SOCKET
from ttybrokerd import start
from ttybrokerd.prepare import command
from ttybrokerd.root import fresh, locks

ACTIONS = ("--prepare", "--check", "--udev-rules", "--version", "--help", "-h")
WITH_ARGUMENT = ("--policy", "--socket", "--lock-dir")

USAGE = """usage: ttybrokerd [--policy FILE] [--socket PATH] [--lock-dir DIR]
       ttybrokerd --prepare [--policy FILE] [--socket PATH]
       ttybrokerd --check [--policy FILE]
       ttybrokerd --udev-rules [--policy FILE]
       ttybrokerd --version | --help"""
HELP = f"""{USAGE}

Broker for serial ports: checks the policy, locks and opens a port, passes the descriptor.

  --policy FILE   who may use which port; default {fresh.POLICY}, or as shipped
  --socket PATH   where to listen; default {SOCKET}
  --lock-dir DIR  where UUCP lock files are; default {locks.DIRECTORY}
  --prepare       check the policy, write the plan that the daemon reads on SIGHUP, and exit
  --check         check the policy, which may be a draft in any directory, and exit
  --udev-rules    print udev rules that keep ModemManager and brltty off the policy's adapters
  --version       print the version

On SIGHUP the daemon reads the plan again. On SIGTERM it ends, and holders keep their ports."""


def main(options: dict[str, str], words: list[str]) -> int:
    """Do what these words ask for, the last of them, with these options that had an argument.

    Return the exit status: 1 it could not be done, 2 usage.
    """
    for word in words:
        if word not in ACTIONS:
            wrong = "its argument is missing" if word in WITH_ARGUMENT else "not an option"
            if word.endswith(".toml"):
                wrong += f"; write --policy {word}"
            print(f"ttybrokerd: {word}: {wrong}\n{USAGE}", file=sys.stderr)
            return 2
    try:
        status = _do(words[-1], options)
        print(end="", flush=True)
        return status
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
            print(f"ttybrokerd: {start.in_words(error)}", file=sys.stderr)
        forget_output()
        return 1


def _do(action: str, options: dict[str, str]) -> int:
    """Return the exit status. Raises OSError."""
    policy = options.get("--policy")
    match action:
        case "--prepare":
            return _prepare(policy, os.path.dirname(options.get("--socket", SOCKET)))
        case "--check":
            return command.check(policy)
        case "--udev-rules":
            return command.udev_rules(policy)
        case "--version":
            print(f"ttybrokerd {VERSION}")
        case _:
            print(HELP)
    return 0


def _prepare(policy: str | None, directory: str) -> int:
    if os.geteuid() != 0:
        what = "--prepare needs root, because the plan must belong to root; --check does not"
        print(f"ttybrokerd: {what}", file=sys.stderr)
        return 1
    return command.prepare(policy, directory)
