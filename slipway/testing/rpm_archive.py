"""An rpm repository made up from a seed: signed, with packages that rpm installs, changing by day.

`RpmArchive` writes what a distribution's server has, as `slipway.testing.deb_archive` does for
Debian. Packages are written as the rpm of 4.14 and later reads them; the format is described in
https://rpm-software-management.github.io/rpm/manual/format.html.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from xml.sax.saxutils import quoteattr

from pysequoia import SignatureMode, Tsk, sign
from pysequoia.packet import PacketPile

from slipway.testing.archive import EPOCH, Archive, Revised, write_whole

_NULL, _INT16, _INT32, _STRING, _BIN, _STRINGS, _I18N = 0, 3, 4, 6, 7, 8, 9
_SIGNATURES, _IMMUTABLE = 62, 63
#: Requirements on rpm itself, and "less or equal".
_RPMLIB = (1 << 24) | 10


@dataclass(frozen=True, kw_only=True)
class RpmPackage(Revised):
    """A package as it is on some day."""

    key: Tsk = field(compare=False)
    epoch: int = 0
    requires: str = ""

    @property
    def version(self) -> str:
        """As people write it."""
        before = f"{self.epoch}:" if self.epoch else ""
        return f"{before}1.{self.revision}-1.el9"

    @property
    def path(self) -> str:
        """Where it is below the directory of its repository."""
        return f"Packages/{self.name[0]}/{self.name}-1.{self.revision}-1.el9.noarch.rpm"

    @property
    def file(self) -> str:
        """What it installs."""
        return f"/usr/share/{self.name}/version"

    @functools.cached_property
    def rpm(self) -> bytes:
        """The package: installs one file, with its version in it."""
        filler = random.Random(f"{self.name} {self.revision}").randbytes(self.payload_bytes)
        content = f"{self.name} {self.version}\n".encode() + filler
        payload = gzip.compress(_cpio({f".{self.file}": content}), compresslevel=1, mtime=0)
        header = self._header(content, payload)
        signed = sign(self.key.signer(), header, mode=SignatureMode.DETACHED)
        signature = _header(
            _SIGNATURES,
            {
                # Whatever is not RSA has the tag of DSA.
                267: (_BIN, b"".join(map(bytes, PacketPile.from_bytes(signed)))),
                269: (_STRING, [hashlib.sha1(header).hexdigest()]),
                273: (_STRING, [hashlib.sha256(header).hexdigest()]),
                1000: (_INT32, [len(header) + len(payload)]),
                1004: (_BIN, hashlib.md5(header + payload).digest()),
            },
        )
        padding = b"\0" * (-len(signature) % 8)
        lead = struct.pack(
            ">4sBBhh66shh16x", b"\xed\xab\xee\xdb", 3, 0, 0, 1, self.name.encode(), 1, 5
        )
        return lead + signature + padding + header + payload

    def _header(self, content: bytes, payload: bytes) -> bytes:
        needed = [("rpmlib(CompressedFileNames)", _RPMLIB, "3.0.4-1")]
        needed += [("rpmlib(PayloadFilesHavePrefix)", _RPMLIB, "4.0-1")]
        needed += [(self.requires, 0, "")] if self.requires else []
        names, flags, versions = (list(each) for each in zip(*needed, strict=True))
        built = self._built_s
        directory, _, base = self.file.rpartition("/")
        tags: dict[int, tuple[int, list[str] | list[int] | bytes]] = {
            100: (_STRINGS, ["C"]),
            1000: (_STRING, [self.name]),
            1001: (_STRING, [f"1.{self.revision}"]),
            1002: (_STRING, ["1.el9"]),
            1004: (_I18N, ["made up"]),
            1005: (_I18N, ["made up"]),
            1006: (_INT32, [built]),
            1007: (_STRING, ["localhost"]),
            1009: (_INT32, [len(content)]),
            1014: (_STRING, ["None"]),
            1016: (_I18N, ["Unspecified"]),
            1021: (_STRING, ["linux"]),
            1022: (_STRING, ["noarch"]),
            1028: (_INT32, [len(content)]),
            1030: (_INT16, [0o100644]),
            1033: (_INT16, [0]),
            1034: (_INT32, [built]),
            1035: (_STRINGS, [hashlib.sha256(content).hexdigest()]),
            1036: (_STRINGS, [""]),
            1037: (_INT32, [0]),
            1039: (_STRINGS, ["root"]),
            1040: (_STRINGS, ["root"]),
            1044: (_STRING, [f"{self.name}-1.{self.revision}-1.el9.src.rpm"]),
            1045: (_INT32, [-1]),
            1047: (_STRINGS, [self.name]),
            1048: (_INT32, flags),
            1049: (_STRINGS, names),
            1050: (_STRINGS, versions),
            1064: (_STRING, ["4.18.0"]),
            1095: (_INT32, [1]),
            1096: (_INT32, [1]),
            1097: (_STRINGS, [""]),
            1112: (_INT32, [8]),  # "="
            1113: (_STRINGS, [self.version]),
            1116: (_INT32, [0]),
            1117: (_STRINGS, [base]),
            1118: (_STRINGS, [f"{directory}/"]),
            1124: (_STRING, ["cpio"]),
            1125: (_STRING, ["gzip"]),
            1126: (_STRING, ["1"]),
            5011: (_INT32, [8]),  # SHA-256
            5092: (_STRINGS, [hashlib.sha256(payload).hexdigest()]),
            5093: (_INT32, [8]),
        }
        if self.epoch:
            tags[1003] = (_INT32, [self.epoch])
        return _header(_IMMUTABLE, tags)

    @property
    def _built_s(self) -> int:
        return int((EPOCH + timedelta(days=self.revision)).timestamp())

    @property
    def _lead_and_signature_bytes(self) -> int:
        return self.rpm.index(b"\x8e\xad\xe8\x01", 100)

    @functools.cached_property
    def primary(self) -> str:
        """What ``primary.xml`` says of it."""
        evr = f'epoch="{self.epoch}" ver="1.{self.revision}" rel="1.el9"'
        needed = f"<rpm:requires><rpm:entry name={quoteattr(self.requires)}/></rpm:requires>"
        start = self._lead_and_signature_bytes
        built = self._built_s
        return (
            f'<package type="rpm"><name>{self.name}</name><arch>noarch</arch><version {evr}/>'
            f'<checksum type="sha256" pkgid="YES">{self.sha256}</checksum>'
            "<summary>made up</summary><description>made up</description><packager/><url/>"
            f'<time file="{built}" build="{built}"/>'
            f'<size package="{len(self.rpm)}" installed="{self.payload_bytes}" archive="1"/>'
            f"<location href={quoteattr(self.path)}/>"
            "<format><rpm:license>None</rpm:license><rpm:vendor/><rpm:group>Unspecified</rpm:group>"
            f"<rpm:buildhost>localhost</rpm:buildhost><rpm:sourcerpm>{self.name}.src.rpm"
            f'</rpm:sourcerpm><rpm:header-range start="{start}" end="{len(self.rpm)}"/>'
            f'<rpm:provides><rpm:entry name="{self.name}" flags="EQ" {evr}/></rpm:provides>'
            f"{needed if self.requires else ''}</format></package>"
        )

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.rpm).hexdigest()


class RpmArchive(Archive[RpmPackage]):
    """One or more directories with the same packages, below one address."""

    def __init__(
        self,
        root: Path,
        *,
        seed: int = 1,
        packages: int = 12,
        suites: Iterable[str] = ("BaseOS/x86_64/os/",),
        payload_bytes: int = 200,
        start: datetime = EPOCH,
        key: Tsk | None = None,
        certificate: bytes | None = None,
    ) -> None:
        self.keyring = root.parent / f"{root.name}-keyring.asc"
        #: Metadata that nothing here reads.
        self.modules = (
            b"---\ndocument: modulemd-defaults\nversion: 1\ndata:\n  module: made-up\n"
            b"  stream: '1'\n...\n"
        )
        super().__init__(
            root,
            # One that rpm takes has to be given with its certificate: those that Sequoia makes have
            # critical parts that rpm's own reader does not know.
            key=key or Tsk.generate("Synthetic rpms <rpms@example.org>"),
            seed=seed,
            packages=packages,
            suites=suites,
            payload_bytes=payload_bytes,
            start=start,
        )
        root.mkdir(parents=True, exist_ok=True)
        self.keyring.write_bytes(certificate or str(self.key.extract_certificate()).encode())
        self.publish()

    def publish(self) -> None:
        """Write packages and metadata as they are now. Old files stay: see `clean`."""
        for suite in self.suites:
            directory = self._directory(suite)
            for package in self.packages.values():
                path = directory / package.path
                if not path.exists():
                    write_whole(path, package.rpm)
            self.write_metadata(suite)

    def clean(self) -> None:
        """Remove the packages that are not of today, and metadata that no ``repomd.xml`` names."""
        for suite in self.suites:
            directory = self._directory(suite)
            kept = {directory / package.path for package in self.packages.values()}
            repomd = (directory / "repodata/repomd.xml").read_text()
            for path in (*directory.rglob("*.rpm"), *(directory / "repodata").glob("*-*")):
                if path not in kept and path.name not in repomd:
                    path.unlink()

    def write_metadata(
        self, suite: str, *, key: Tsk | None = None, date: datetime | None = None
    ) -> None:
        """Write a directory's metadata; with another key or date than the archive's if given."""
        made = int((date or self.now).timestamp())
        directory = self._directory(suite) / "repodata"
        data = "".join(
            self._data(directory, kind, name, content, made)
            for kind, (name, content) in self._metadata().items()
        )
        repomd = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<repomd xmlns="http://linux.duke.edu/metadata/repo" '
            'xmlns:rpm="http://linux.duke.edu/metadata/rpm">\n'
            f"<revision>{made}</revision>\n{data}</repomd>\n"
        ).encode()
        signature = sign((key or self.key).signer(), repomd, mode=SignatureMode.DETACHED)
        write_whole(directory / "repomd.xml", repomd)
        write_whole(directory / "repomd.xml.asc", signature)

    def _directory(self, suite: str) -> Path:
        return self.root / suite.lstrip("/")

    def _metadata(self) -> dict[str, tuple[str, bytes]]:
        ordered = [package for _, package in sorted(self.packages.items())]
        number = len(ordered)
        common = "http://linux.duke.edu/metadata"
        lists = "".join(
            f'<package pkgid="{each.sha256}" name="{each.name}" arch="noarch"><version '
            f'epoch="{each.epoch}" ver="1.{each.revision}" rel="1.el9"/><file>{each.file}</file>'
            "</package>"
            for each in ordered
        )
        found = {
            "primary": f'<metadata xmlns="{common}/common" xmlns:rpm="{common}/rpm" '
            f'packages="{number}">{"".join(each.primary for each in ordered)}</metadata>',
            "filelists": f'<filelists xmlns="{common}/filelists" packages="{number}">{lists}'
            "</filelists>",
            "other": f'<otherdata xmlns="{common}/other" packages="{number}">'
            f"{lists.replace('<file>', '<!--').replace('</file>', '-->')}</otherdata>",
            "updateinfo": "<updates></updates>",
        }
        files = {
            kind: (f"{kind}.xml.gz", gzip.compress(text.encode(), compresslevel=1, mtime=0))
            for kind, text in found.items()
        }
        files["modules"] = ("modules.yaml.gz", gzip.compress(self.modules, mtime=0))
        return files

    def _data(self, directory: Path, kind: str, name: str, content: bytes, made: int) -> str:
        digest = hashlib.sha256(content).hexdigest()
        opened = gzip.decompress(content)
        write_whole(directory / f"{digest}-{name}", content)
        return (
            f'<data type="{kind}"><checksum type="sha256">{digest}</checksum>'
            f'<open-checksum type="sha256">{hashlib.sha256(opened).hexdigest()}</open-checksum>'
            f'<location href="repodata/{digest}-{name}"/><timestamp>{made}</timestamp>'
            f"<size>{len(content)}</size><open-size>{len(opened)}</open-size></data>\n"
        )

    def _invent(self, number: int) -> RpmPackage:
        return RpmPackage(
            name=f"pkg{number:05d}",
            revision=1,
            payload_bytes=self._payload_bytes,
            key=self.key,
            epoch=self._random.choice((0, 0, 2)),
            requires=f"pkg{number // 2:05d}" if number > 1 else "",
        )


def _header(region: int, tags: dict[int, tuple[int, list[str] | list[int] | bytes]]) -> bytes:
    """A header structure: an index of tags, and their values. It begins with a tag that says that
    all of it belongs together, whose value comes last."""
    entries, store = bytearray(), bytearray()
    for tag, (kind, value) in sorted(tags.items()):
        if isinstance(value, bytes):
            data, count = value, len(value)
        else:
            data, count = _packed(kind, value), len(value)
        store += b"\0" * (-len(store) % {_INT16: 2, _INT32: 4}.get(kind, 1))
        entries += struct.pack(">iiii", tag, kind, len(store), count)
        store += data
    number = len(tags) + 1
    first = struct.pack(">iiii", region, _BIN, len(store), 16)
    store += struct.pack(">iiii", region, _BIN, -16 * number, 16)
    magic = b"\x8e\xad\xe8\x01" + bytes(4)
    return magic + struct.pack(">ii", number, len(store)) + first + bytes(entries + store)


def _packed(kind: int, values: Iterable[str | int]) -> bytes:
    form = {_INT16: ">H", _INT32: ">i"}.get(kind)
    if form is None:
        return b"".join(str(value).encode() + b"\0" for value in values)
    return b"".join(struct.pack(form, value) for value in values)


def _cpio(files: dict[str, bytes]) -> bytes:
    """An archive in the form that rpm calls cpio (SVR4, no checksums)."""
    out = bytearray()
    for number, (name, data) in enumerate({**files, "TRAILER!!!": b""}.items(), 1):
        inode, mode = (number, 0o100644) if name in files else (0, 0)
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + "".join(f"{field:08x}" for field in fields).encode()
        out += name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
