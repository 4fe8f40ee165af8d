"""`make distro D=trixie`: demo, check, deb, pip, test, matrix on another release of Debian.

    make distro D=sid STEPS="demo deb"                  some of the steps, in this order
    make distro D=sid STEPS=matrix                      its versions of the programs
    make distro D=sid STEPS=pip                         what pip and pipx install
    make distro D=sid STEPS=tests/unit                  a folder of tests, or a file
    make distro D=sid PYTHON=/usr/bin/python3.15        another of its interpreters

D is bookworm, trixie, forky or sid. Its root is built from the registry by mmdebstrap: git, make
and certificates, nothing else. In it is a clean clone of HEAD, and each step is what the README
tells a newcomer to type, as root; what deb built is then tried by packages.sh. Packages that steps
install stay in the root, which is kept in .distro; `make distro-clean` takes all of them away.

What each step came to goes into docs/releases.md, with the commit, and so does the size of the
root; what `matrix` found goes into a column of docs/programs.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from distro import table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".distro"
RELEASES = ("bookworm", "trixie", "forky", "sid")
SEVERAL = ("matrix", "test")  # run pytest several times
PROGRAMS = ROOT / "docs" / "programs.md"
CLONE = "root/ttybroker"  # for its owner alone, as root's home is
NOT_SOURCE = (".venv", ".distro", ".lab", "build", "dist", "__pycache__")
CERTIFICATES = "etc/ssl/machine.crt"  # this machine's, which may know a registry that others do not


def main(release: str, python: str, steps: list[str]) -> int:
    """Exit status: 0, or 1 if a step failed."""
    if release not in RELEASES or not steps:
        print(f"make distro D=RELEASE: one of {', '.join(RELEASES)}", file=sys.stderr)
        return 2
    root = CACHE / release
    kept = ""
    if not root.exists():
        started = time.monotonic()
        _build(release, root)
        kept = f"built in {time.monotonic() - started:.0f} s; "
    _borrow(root)
    commit = _clone(root)
    failed = False
    for step in steps:
        started = time.monotonic()
        if step == "matrix":
            shutil.copy(PROGRAMS, root / CLONE / "docs")
        status, last = _run(root, python, step)
        if step == "matrix":
            shutil.copy(root / CLONE / "docs" / PROGRAMS.name, PROGRAMS)
        seconds = time.monotonic() - started
        failed |= status != 0
        found = table.Found(release, _version(root, python), step, _came_to(status, last, seconds),
                            commit)  # fmt: skip
        table.write(found)
        _say(f"{release}, {step}: {found.result}; written into docs/{table.PAGE.name}")
    kept += f"{_size(root) / 2**30:.1f} GiB kept in .distro"
    table.write(table.Found(release, "", "root", kept, commit))
    return 1 if failed else 0


def _say(what: str) -> None:
    print(f"distro: {what}", flush=True)


def _build(release: str, root: Path) -> None:
    _say(f"building {release} (a minute)")
    part = root.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(exist_ok=True)
    words = ["--quiet", "--variant=minbase", "--include=git,make,ca-certificates"]
    # A mirror may be a copy of an earlier day: this machine's apt knows.
    for setting in ("Acquire::Check-Valid-Until", "Acquire::Check-Date"):
        dump = subprocess.check_output(["apt-config", "dump", setting], text=True)
        words += [f"--aptopt={line}" for line in dump.splitlines()]
    subprocess.run(["mmdebstrap", *words, release, part], check=True)
    part.rename(root)


def _borrow(root: Path) -> None:
    """This machine's way to the registries."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(bundle, root / CERTIFICATES)


def _clone(root: Path) -> str:
    """A clean clone; its commit, short."""
    clone = root / CLONE
    shutil.rmtree(clone, ignore_errors=True)
    if not (ROOT / ".git").exists():
        _say("not a clone: copying what is here")
        shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*NOT_SOURCE), symlinks=True)
        return "none"
    anybodys = "git -c safe.directory=*"  # whoever owns it
    words = [*anybodys.split(), "clone", "--quiet", "--no-local"]
    subprocess.run([*words, f"--upload-pack={anybodys} upload-pack", ROOT, clone], check=True)
    words = ["git", "-C", str(clone), "describe", "--always"]
    commit = subprocess.check_output(words, text=True).strip()
    words = [*anybodys.split(), "-C", str(ROOT), "status", "--porcelain"]
    changed = subprocess.check_output(words, text=True)
    _say(f"commit {commit}{', without what is not committed' if changed else ''}")
    return commit


def _enter(root: Path, words: list[str]) -> list[str]:
    """The command that runs `words` in the clone, with nothing of this environment but the
    addresses of registries."""
    passed = re.compile(r"(PIP_(INDEX_URL|EXTRA_INDEX_URL|DEFAULT_TIMEOUT)|\w+_proxy)", re.I)
    variables = [f"{name}={value}" for name, value in os.environ.items() if passed.fullmatch(name)]
    variables += [f"PIP_CERT=/{CERTIFICATES}", f"SSL_CERT_FILE=/{CERTIFICATES}"]
    clean = ["env", "-i", "-C", f"/{CLONE}", "HOME=/root", "LANG=C.UTF-8", "TERM=xterm",
             "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]  # fmt: skip
    return [str(HERE / "enter.sh"), str(root), *clean, *variables, *words]


def _run(root: Path, python: str, step: str) -> tuple[int, str]:
    """Its exit status and pytest's closing lines, if it has any. All it says is in .distro too."""
    make = f"make PYTHON={python}"
    command = f"{make} {step}"
    if step == "deb":
        command += " && tests/distro/packages.sh"
    if step == "pip":
        command = f"tests/distro/pip.sh {python}"
    if step.startswith("tests/"):
        tests = f"PYTHON={python} .venv/bin/python -m pytest -q {step}"  # for what they make
        command = f"{make} .venv/ready .venv/test-needs && {tests}"
    _say(command)
    log = CACHE / f"{root.name}-{Path(python).name}-{step.replace('/', '-')}.log"
    last = ""
    with (
        log.open("w") as file,
        subprocess.Popen(
            _enter(root, ["sh", "-c", command]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            print(line, end="", flush=True)
            if re.search(r"\d+ (passed|failed|errors?).* in [\d.]+s", line):
                last = last + line if step in SEVERAL else line
    return process.returncode, last


def _came_to(status: int, last: str, seconds: float) -> str:
    """For the table: pytest's own counts where there are some, and the time."""
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", last)
    words = ", ".join(counts) if counts else "ok" if status == 0 else "failed"
    return f"{words} ({seconds:.0f} s)"


def _size(root: Path) -> int:
    """Bytes on the disk: du(1)."""
    words = ["du", "--summarize", "--block-size=1", "--one-file-system", root]
    return int(subprocess.check_output(words, text=True).split()[0])


def _version(root: Path, python: str) -> str:
    """The interpreter's, as it says itself; it is there once a step has run."""
    words = [python, "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(_enter(root, words), stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
