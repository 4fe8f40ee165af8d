#!/usr/bin/python3 -I
"""gps-reader PORT [BAUD]: print the position from each NMEA 0183 sentence GGA that is whole."""

import sys
from functools import reduce

from ttybroker import BrokerError, open_tty


def sentence(line: bytes) -> list[str] | None:
    """Return the fields of a sentence "$...*hh", None if its checksum is not right."""
    body, star, checksum = line.strip().lstrip(b"$").partition(b"*")
    if not star or checksum.upper() != b"%02X" % reduce(int.__xor__, body, 0):
        return None
    return body.decode("ascii", "replace").split(",")


def main() -> int:
    """Exit status 1 when the port is refused or gone: systemd starts us again."""
    port, baud = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4800
    try:
        with open_tty(port, baudrate=baud, timeout=60, wait=600) as gps:
            while line := gps.readline():
                fields = sentence(line)
                if fields and fields[0].endswith("GGA") and fields[6] != "0":
                    print(*fields[2:6], flush=True)
        print(f"{port}: silent for a minute", file=sys.stderr)
    except BrokerError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
