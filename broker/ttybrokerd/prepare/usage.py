"""What `ttybrokerd` says of its options."""

from __future__ import annotations

from ttybroker.wire import SOCKET
from ttybrokerd.root import fresh, locks

USAGE = """usage: ttybrokerd [--policy FILE] [--socket PATH] [--lock-dir DIR]
       ttybrokerd --prepare [--policy FILE] [--socket PATH]
       ttybrokerd --check [--policy FILE]
       ttybrokerd --udev-rules [--policy FILE]
       ttybrokerd --version | --help"""
HELP = f"""{USAGE}

Broker for serial ports: checks who asks, locks, opens, passes the descriptor.

  --policy FILE   who may use what; default {fresh.POLICY}, or as shipped
  --socket PATH   where to listen; default {SOCKET}
  --lock-dir DIR  where UUCP lock files are; default {locks.DIRECTORY}
  --prepare       check the policy, write the plan that the daemon reads on SIGHUP, and exit
  --check         check the policy, which may be a draft anywhere, and exit
  --udev-rules    print rules for udev, which keep ModemManager and brltty off the policy's
                  adapters
  --version       say which version this is

SIGHUP reads the plan again. SIGTERM ends it: holders keep their ports."""
