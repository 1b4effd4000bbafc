"""A Debian archive made up from a seed: signed, with packages that apt installs, changing by day.

`DebArchive` writes what a distribution's server has; `slipway.testing.web` serves it, and breaks it
on request.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import lzma
import random
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pysequoia import SignatureMode, Tsk, sign

from slipway.testing.archive import EPOCH, Archive, Revised, write_whole


@dataclass(frozen=True, kw_only=True)
class Package(Revised):
    """A binary package as it is on some day."""

    architecture: str
    component: str
    depends: str = ""

    @property
    def version(self) -> str:
        """With an epoch and a plus, which file names and requests spell differently."""
        return f"1.{self.revision}+b1"

    @property
    def path(self) -> str:
        """Where it is in the pool."""
        initial = self.name[0]
        return (
            f"pool/{self.component}/{initial}/{self.name}/"
            f"{self.name}_{self.version}_{self.architecture}.deb"
        )

    @functools.cached_property
    def deb(self) -> bytes:
        """The package: installs one file, with its version in it."""
        control = (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: {self.architecture}\n"
            f"Maintainer: Nobody <nobody@example.org>\n{self._depends}"
            f"Description: made up\n"
        )
        filler = random.Random(f"{self.name} {self.revision}").randbytes(self.payload_bytes)
        content = f"{self.name} {self.version}\n".encode() + filler
        members = {
            "debian-binary": b"2.0\n",
            "control.tar.gz": _tar({"./control": control.encode()}),
            "data.tar.gz": _tar({f"./usr/share/{self.name}/version": content}),
        }
        return _ar(members)

    @functools.cached_property
    def sha256(self) -> str:
        """Of the package."""
        return hashlib.sha256(self.deb).hexdigest()

    @functools.cached_property
    def stanza(self) -> str:
        """What ``Packages`` says of it."""
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: {self.architecture}\n"
            f"Maintainer: Nobody <nobody@example.org>\n{self._depends}"
            f"Filename: {self.path}\nSize: {len(self.deb)}\n"
            f"SHA256: {self.sha256}\nDescription: made up\n"
        )

    @property
    def _depends(self) -> str:
        return f"Depends: {self.depends}\n" if self.depends else ""


class DebArchive(Archive[Package]):
    """An archive of one or more suites with the same packages, in a directory."""

    def __init__(
        self,
        root: Path,
        *,
        seed: int = 1,
        packages: int = 12,
        suites: Iterable[str] = ("stable",),
        components: tuple[str, ...] = ("main",),
        payload_bytes: int = 200,
        valid_for: timedelta | None = None,
        by_hash: bool = True,
        start: datetime = EPOCH,
        origin: str = "Synthetic",
    ) -> None:
        self.components = components
        self.keyring = root.parent / f"{root.name}-keyring.gpg"
        self._origin = origin
        self._valid_for = valid_for
        self._by_hash = by_hash
        #: Where the index says that a package is, when that is not its path.
        self.moved: dict[str, str] = {}
        super().__init__(
            root,
            key=Tsk.generate("Synthetic archive <archive@example.org>"),
            seed=seed,
            packages=packages,
            suites=suites,
            payload_bytes=payload_bytes,
            start=start,
        )
        root.mkdir(parents=True, exist_ok=True)
        self.keyring.write_bytes(bytes(self.key.extract_certificate()))
        self.publish()

    def publish(self) -> None:
        """Write pool and indexes as they are now. Old packages stay in the pool: see `clean`."""
        for package in self.packages.values():
            path = self.root / package.path
            if not path.exists():
                write_whole(path, package.deb)
        for suite in self.suites:
            self.write_suite(suite)

    def clean(self) -> None:
        """Remove from the pool what no package of today is."""
        kept = {self.root / package.path for package in self.packages.values()}
        for path in (self.root / "pool").rglob("*.deb"):
            if path not in kept:
                path.unlink()

    def write_suite(
        self, suite: str, *, key: Tsk | None = None, date: datetime | None = None
    ) -> None:
        """Write a suite's indexes and release; another key or date than the archive's if given."""
        directory = self.root / "dists" / suite
        listed: dict[str, bytes] = dict(self._indexes())
        for path, data in listed.items():
            # An archive lists what its indexes decompress to, and does not have it.
            if path.endswith(("/Packages", "/Translation-en")):
                continue
            write_whole(directory / path, data)
            if self._by_hash:
                for algorithm in ("sha256", "sha512"):
                    digest = hashlib.new(algorithm, data).hexdigest()
                    place = (directory / path).parent / "by-hash" / algorithm.upper() / digest
                    write_whole(place, data)
        self._sign(directory, suite, listed, key or self.key, date or self.now)

    def write_flat(self, directory: Path, listed: dict[str, bytes]) -> None:
        """Write the release of a flat repository of these files."""
        self._sign(directory, "flat", listed, self.key, self.now)

    def _sign(
        self, directory: Path, suite: str, listed: dict[str, bytes], key: Tsk, date: datetime
    ) -> None:
        release = self._release(suite, listed, date).encode()
        signer = key.signer()
        write_whole(directory / "Release", release)
        write_whole(directory / "Release.gpg", sign(signer, release, mode=SignatureMode.DETACHED))
        write_whole(directory / "InRelease", sign(signer, release, mode=SignatureMode.CLEAR))

    def _invent(self, number: int) -> Package:
        return Package(
            name=f"pkg{number:05d}",
            revision=1,
            architecture=self._random.choice(("amd64", "all")),
            component=self._random.choice(self.components),
            payload_bytes=self._payload_bytes,
            depends=f"pkg{number // 2:05d}" if number > 1 else "",
        )

    def _indexes(self) -> Iterator[tuple[str, bytes]]:
        for component in self.components:
            stanzas = [
                self._stanza(package)
                for _, package in sorted(self.packages.items())
                if package.component == component
            ]
            text = "\n".join(stanzas).encode()
            base = f"{component}/binary-amd64/Packages"
            yield base, text
            yield f"{base}.xz", lzma.compress(text, preset=0)
            yield f"{base}.gz", gzip.compress(text, compresslevel=1, mtime=0)
            translations = f"{component}/i18n/Translation-en"
            yield translations, b""
            yield f"{translations}.xz", lzma.compress(b"", preset=0)

    def _stanza(self, package: Package) -> str:
        place = self.moved.get(package.name, package.path)
        return package.stanza.replace(f"Filename: {package.path}\n", f"Filename: {place}\n")

    def _release(self, suite: str, listed: dict[str, bytes], date: datetime) -> str:
        lines = [
            f"Origin: {self._origin}",
            "Label: Synthetic",
            f"Suite: {suite}",
            f"Codename: {suite}",
            f"Date: {_rfc(date)}",
            "Architectures: all amd64",
            "No-Support-for-Architecture-all: Packages",
            f"Components: {' '.join(self.components)}",
        ]
        if self._by_hash:
            lines.append("Acquire-By-Hash: yes")
        if self._valid_for is not None:
            lines.append(f"Valid-Until: {_rfc(date + self._valid_for)}")
        for algorithm in ("sha256", "sha512"):
            lines.append(f"{algorithm.upper()}:")
            lines += [
                f" {hashlib.new(algorithm, data).hexdigest()} {len(data):>8} {path}"
                for path, data in sorted(listed.items())
            ]
        return "\n".join(lines) + "\n"


def _rfc(moment: datetime) -> str:
    return moment.strftime("%a, %d %b %Y %H:%M:%S UTC")


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        made: set[str] = set()
        for name, data in files.items():
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                directory = "/".join(parts[:depth]) + "/"
                if directory not in made:
                    made.add(directory)
                    info = tarfile.TarInfo(directory)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), compresslevel=1, mtime=0)


def _ar(members: dict[str, bytes]) -> bytes:
    out = bytearray(b"!<arch>\n")
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return bytes(out)
