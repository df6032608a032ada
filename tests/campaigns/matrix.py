"""Runs the tests on each supported Scrapy, with the oldest and the newest Python: ``make test-matrix``.

Without arguments: Scrapy 2.15 to the newest, each on Python 3.10 and on the newest Python that is installed. Each
cell has its own environment under ``.matrix/``, made on first use, and its log there. It prints one line per cell.
``--scrapy 2.15 --python 3.10`` chooses cells; what follows ``--`` goes to pytest: ``-- -n 2 tests/test_items.py``.

It looks for Pythons by name (``python3.10``, …) on PATH and in pyenv, if installed; or for those in PYTHONS, names or paths
with spaces between them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRAPYS = ("2.15", "2.16", "2.17", "2.18", "newest")
OLDEST_PYTHON = (3, 10)
NAMES = [f"python3.{minor}" for minor in range(OLDEST_PYTHON[1], 20)]


def python_of(name: str) -> tuple[tuple[int, ...], str] | None:
    """Return the version and the path of the Python called *name*, None if it is not installed."""
    candidates = [shutil.which(name)]
    if name in NAMES and (pyenv := shutil.which("pyenv")):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
        found = Path(root, "versions").glob(f"{name.removeprefix('python')}.*/bin/python")
        candidates += [
            str(path) for path in sorted(found, key=lambda path: [*map(int, re.findall(r"\d+", path.parts[-3]))])[-1:]
        ]
    for path in filter(None, candidates):
        # A name on PATH may be a shim that only lists the installed Pythons.
        command = [path, "-c", "import sys; print(*sys.version_info[:3])"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return tuple(map(int, done.stdout.split())), path
    return None


def pythons() -> dict[tuple[int, ...], str]:
    """Return the installed Pythons, oldest first; print a line with the missing ones."""
    given = os.environ.get("PYTHONS", "").split()
    found, missing = {}, []
    for name in given or NAMES:
        python = python_of(name)
        if python is None:
            missing.append(name)
        elif python[0] >= OLDEST_PYTHON:
            found[python[0]] = python[1]
    newest = max(found, default=OLDEST_PYTHON)
    # Pythons that do not exist yet are not missing.
    missing = [name for name in missing if given or int(name.rpartition(".")[2]) < newest[1]]
    if missing:
        print(f"not installed: {', '.join(missing)}", flush=True)
    return dict(sorted(found.items()))


def environment(scrapy: str, version: tuple[int, ...], python: str) -> tuple[Path, str]:
    """Make a cell's environment unless it exists; return its Python and the version of its Scrapy."""
    folder = ROOT / ".matrix" / f"scrapy-{scrapy}-python-{'.'.join(map(str, version))}"
    own = folder / "bin" / "python"
    wanted = "scrapy" if scrapy == "newest" else f"scrapy=={scrapy}.*"
    if not own.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "-e", f"{ROOT}[dev]", wanted]
    done = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{folder}: pip failed:\n{done.stderr}")
    there = subprocess.run([own, "-c", "import scrapy; print(scrapy.__version__)"], capture_output=True, text=True, check=True)
    return own, there.stdout.strip()


def run_cell(scrapy: str, version: tuple[int, ...], python: str, arguments: list[str]) -> bool:
    """Run the tests of one cell, print its line, and return whether all passed."""
    own, scrapy_version = environment(scrapy, version, python)
    log = own.parent.parent.with_suffix(".log")
    with open(log, "w") as file:
        command = [own, "-m", "pytest", "-q", "--color=no", *arguments]
        changed = {"PYTHONPATH": str(ROOT), "PATH": f"{own.parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **changed})
    lines = log.read_text().splitlines()
    counts = [line.strip("= ") for line in lines if re.search(r"\d+ \w+.* in [\d.]+s", line)] or ["no counts"]
    print(f"Scrapy {scrapy_version}, Python {'.'.join(map(str, version))}: {counts[-1]}", flush=True)
    if done.returncode:
        said = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        print(*(f"  {line}" for line in [*said, f"see {log}"]), sep="\n", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scrapy", nargs="+", default=SCRAPYS, help='like "2.15", or "newest"; all that are supported if not given'
    )
    parser.add_argument("--python", nargs="+", default=[], help='like "3.10", or "newest"; 3.10 and the newest if not given')
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    chosen = parser.parse_args()
    there = pythons()
    if not there:
        print("no Python from 3.10 on was found: install one, or say in PYTHONS where it is")
        return 1
    oldest = [version for version in there if version[:2] == OLDEST_PYTHON]
    versions = {*oldest[-1:], max(there)}
    if chosen.python:
        asked = {max(there)[:2] if each == "newest" else tuple(map(int, each.split("."))) for each in chosen.python}
        versions = {version for version in there if version[:2] in asked}
        for each in sorted(asked - {version[:2] for version in versions}):
            print(f"not installed: python{'.'.join(map(str, each))}", flush=True)
    failed = not versions
    for scrapy in chosen.scrapy:
        for version in sorted(versions):
            failed |= not run_cell(scrapy, version, there[version], chosen.pytest)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
