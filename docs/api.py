"""Write the API pages, build/docs/*.html, from the docstrings: `make docs`.

pdoc reads only what a module has in its dictionary. The names that ttybroker loads on demand are
put there first.
"""

from __future__ import annotations

from pathlib import Path

import pdoc

import ttybroker
import ttybrokerd

OUT = Path(__file__).parents[1] / "build" / "docs"
# What programs call, and the modules in which it is defined.
MODULES = ("ttybroker", "ttybroker.aio", "ttybroker.client", "ttybroker.errors",
           "ttybroker.lending", "ttybroker.port", "ttybroker.urls", "ttybroker.wire", "ttybrokerd",
           "ttybrokerd.backend")  # fmt: skip


def main() -> None:
    """Write the pages, and say where they are."""
    for package in (ttybroker, ttybrokerd):
        for name in package.__all__:
            vars(package)[name] = getattr(package, name)
    pdoc.render.configure(docformat="markdown", show_source=True)
    pdoc.pdoc(*MODULES, output_directory=OUT)
    print(OUT / "index.html")


if __name__ == "__main__":
    main()
