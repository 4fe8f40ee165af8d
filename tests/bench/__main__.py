"""`make bench`: prints ratios of things run side by side in the same run. Not tests.

Arguments name the parts to run: opens, traffic, scale, startup, launch; none is all of them.
"""

from __future__ import annotations

import importlib
import sys

PARTS = ("opens", "traffic", "scale", "startup", "launch")


def main() -> None:
    """Run the parts."""
    for part in sys.argv[1:] or PARTS:
        importlib.import_module(f"bench.{part}").run()


if __name__ == "__main__":
    main()
