"""The usage and help of `ttybrokerd`."""

from __future__ import annotations

from ttybroker.wire import SOCKET
from ttybrokerd.root import fresh, locks

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
