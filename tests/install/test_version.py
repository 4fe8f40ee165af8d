"""The version is in frontend/ttybroker/version.py. What has it besides says the same."""

from __future__ import annotations

import os
import re
import subprocess
from email.utils import parsedate_to_datetime
from pathlib import Path

from ttybroker.version import VERSION

TOP = Path(__file__).parents[2]


def test_the_packages_have_it() -> None:
    newest = (TOP / "packaging/debian/changelog").read_text().splitlines()[0]
    assert newest.startswith(f"ttybroker ({VERSION}) ")


def test_the_newest_changes_are_of_it() -> None:
    heading = re.search("^## ([^ ,]+)", (TOP / "CHANGELOG.md").read_text(), re.M)
    assert heading is not None and heading[1] == VERSION


def test_a_release_has_one_day() -> None:
    """Year, month and day in CHANGELOG.md, the same as of the package; or it is not released."""
    days = re.findall("^## (.+), (.+)$", (TOP / "CHANGELOG.md").read_text(), re.M)
    changes = (TOP / "packaging/debian/changelog").read_text()
    packaged = re.findall(r"^ttybroker \((.+?)\).*?^ -- [^>]+>  ([^\n]+)$", changes, re.M | re.S)
    assert [version for version, _ in days] == [version for version, _ in packaged]
    for (_, day), (_, stamp) in zip(days, packaged, strict=True):
        assert day in ("not released yet", parsedate_to_datetime(stamp).date().isoformat())


def test_the_foot_of_each_installed_manual_page_has_it(tmp_path: Path) -> None:
    make = ["make", "-s", "-C", TOP / "packaging/launcher", "install-data", f"DESTDIR={tmp_path}"]
    subprocess.run(make, check=True)
    pages = list(tmp_path.glob("usr/local/share/man/man*/*"))
    sources = os.listdir(TOP / "packaging/man")
    assert sorted(path.name for path in pages) == sorted(sources)
    for page in pages:
        shown = subprocess.run(["mandoc", page], check=True, capture_output=True, text=True).stdout
        assert shown.splitlines()[-1].startswith(f"ttybroker {VERSION} "), page
