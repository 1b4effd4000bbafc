"""Real apt, with all that it keeps in one directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NEEDED = [name for name in ("apt-get", "dpkg-deb", "gpgv") if shutil.which(name) is None]
#: Marks of tests that need it.
APT = pytest.mark.skipif(bool(NEEDED), reason=f"not installed: {', '.join(NEEDED)}")


class Apt:
    """A machine's package manager, with all that it keeps in one directory."""

    def __init__(self, root: Path, sources: str) -> None:
        self.root = root
        for name in (
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "etc/apt/sources.list.d",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/lib/dpkg",
            "var/log/apt",
        ):
            (root / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        (root / "apt.conf").write_text(
            f'Dir "{root}/";\nDir::State::status "{root}/var/lib/dpkg/status";\n'
            'APT::Architecture "amd64";\nAPT::Architectures { "amd64"; };\n'
            'APT::Sandbox::User "root";\nAcquire::Languages { "en"; };\n'
            'Acquire::http::Proxy "false";\nAcquire::Retries "0";\n'
            'Debug::NoLocking "true";\nAPT::Update::Error-Mode "any";\n'
        )
        self.use(sources)

    def use(self, sources: str) -> None:
        (self.root / "etc/apt/sources.list.d/slipway.sources").write_text(sources)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run(
            ["apt-get", "-q", *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def unpack(self) -> dict[str, str]:
        """What the packages in the cache install, by name of the package."""
        target = self.root / "unpacked"
        for path in (self.root / "var/cache/apt/archives").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(path), str(target)], check=True)
        return {
            path.parent.name: path.read_bytes().split(b"\n")[0].decode().partition(" ")[2]
            for path in target.glob("usr/share/*/version")
        }
