"""Makes `.venv` and installs the locked dependencies and Slipway itself into it.

``install.py runtime`` is for running Slipway, ``install.py dev`` for working on it; both do nothing
when the environment is what the lock file says. ``install.py lock`` pins the dependencies again.
Runs on the standard library of any Python from 3.11 on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = {
    "runtime": "requirements.lock",
    "dev": "requirements-dev.lock",
    # For the container image, which has every extra.
    "image": "requirements-image.lock",
}
#: Pause between two lines that say it is still busy.
PROGRESS_S = 15.0
UV = "uv>=0.9,<1"


def main(arguments: list[str]) -> None:
    match arguments:
        case [("runtime" | "dev") as kind]:
            install(kind)
        case ["lock", *options]:
            lock(options)
        case _:
            sys.exit("usage: install.py runtime | dev | lock [uv's options]")


def install(kind: str) -> None:
    """Bring `.venv` to what the lock file of this kind says."""
    # Two `make` in one checkout take turns.
    with Path(__file__).open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if is_current(kind) or (kind == "runtime" and is_current("dev")):
            return
        started = time.monotonic()
        if not is_usable():
            make_venv()
        for stale in VENV.glob(".installed-*"):
            stale.unlink()
        lock_file = LOCKS[kind]
        total = len(pins(lock_file))
        say(f"Installing {total} packages of {lock_file} into .venv (once; a minute or two)")
        # Without --no-deps pip asks for a hash of `sqlalchemy[asyncio]`, which has none apart from
        # sqlalchemy's. The lock is complete, so there is nothing for pip to work out.
        pip("install", "--no-deps", "--require-hashes", "--no-compile", "-r", lock_file)
        pip("install", "--no-deps", "--no-build-isolation", "-e", ".")
        # Prefect imports in half the time from byte-code, and this uses every core.
        run([PYTHON, "-m", "compileall", "-qq", "-j0", VENV / "lib", ROOT / "slipway"], check=False)
        (VENV / f".installed-{kind}").write_text(fingerprint(kind))
        say(f"Installed in {time.monotonic() - started:.0f} s")


def lock(options: list[str]) -> None:
    """Write the lock files with uv, from a virtual environment that is thrown away."""
    common = [
        *("pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11"),
        *("--generate-hashes", "--no-emit-index-url", "--no-header", "--quiet", *options),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        create_venv(Path(scratch))
        python = Path(scratch) / "bin" / "python"
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])
        uv = [python, "-m", "uv", *common]
        # The development lock first: the others may only hold versions that were tested.
        say("Locking requirements-dev.lock")
        run([*uv, "--group", "dev", "--all-extras", "--output-file", LOCKS["dev"]])
        for kind, extras in (("runtime", ()), ("image", ("--all-extras",))):
            say(f"Locking {LOCKS[kind]}")
            tested = ["--constraint", LOCKS["dev"], "--group", "build"]
            run([*uv, *tested, *extras, "--output-file", LOCKS[kind]])


def pins(lock_file: str) -> list[str]:
    """The lines of a lock file that name a package."""
    lines = (ROOT / lock_file).read_text().splitlines()
    return [line for line in lines if line[:1].isalnum()]


def fingerprint(kind: str) -> str:
    """Changes whenever the environment has to be brought up to date."""
    found = hashlib.sha256()
    for name in (LOCKS[kind], "pyproject.toml", ".ci/install.py"):
        found.update((ROOT / name).read_bytes())
    # An environment does not survive being moved: its scripts name their Python by full path.
    found.update(os.fsencode(VENV))
    return found.hexdigest()


def is_current(kind: str) -> bool:
    stamp = VENV / f".installed-{kind}"
    return stamp.is_file() and stamp.read_text() == fingerprint(kind) and is_usable()


def is_usable() -> bool:
    """Whether `.venv` was made here and its Python still runs."""
    probe = "import sys; print(sys.prefix); import pip"
    try:
        done = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0 and Path(done.stdout.strip()).resolve() == VENV


def make_venv() -> None:
    say(f"Making .venv with Python {sys.version.split()[0]}")
    if VENV.exists():
        shutil.rmtree(VENV)
    create_venv(VENV)


def create_venv(where: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "venv", where],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(where, ignore_errors=True)
        sys.exit(
            f"{done.stdout}\n{sys.executable} cannot make virtual environments: install its venv"
            " and ensurepip modules (on Debian and Ubuntu: apt install python3-venv)."
        )


def pip(*arguments: str) -> None:
    """Run pip, saying now and then how far it is; its own words only when it fails."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    output: list[str] = []
    ended = threading.Event()
    reporter = threading.Thread(target=report_progress, args=(output, ended), daemon=True)
    reporter.start()
    with subprocess.Popen(
        [*command, "--progress-bar", "off"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)  # noqa: PERF402  (the reporter looks on while it grows)
    ended.set()
    reporter.join()
    if process.returncode:
        sys.exit("".join(output) + f"pip ended with code {process.returncode}.")


def report_progress(output: list[str], ended: threading.Event) -> None:
    started = time.monotonic()
    while not ended.wait(PROGRESS_S):
        seconds = time.monotonic() - started
        fetched = sum(line.startswith(("Collecting", "Requirement already")) for line in output)
        unpacking = bool(output) and output[-1].startswith("Installing")
        doing = "unpacking" if unpacking else f"{fetched} packages fetched"
        say(f"  {doing}, {seconds:.0f} s")


def run(command: list[str | Path], *, check: bool = True) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False)
    if check and done.returncode:
        sys.exit(f"{command[0]} ended with code {done.returncode}.")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
