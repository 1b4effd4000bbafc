"""Files by the hash of their content: written once, never changed, shared by all days.

```
cas/sha256/ab/<hex>      a blob, mode 0444
by/sha512/ab/<hex>       a link to it, for clients that ask by another hash
incoming/<hex>           what is being received; stays when that is cut short, to be gone on with
incoming/<process>/<hex> small ones that were received whole and have no name yet
quarantine/<hex>         the last body that was not what it should have been
derived/<kind>/ab/<hex>  what was made from a blob, to be made again when it is missing
```

A blob appears under its name complete, checked and on disk, or not at all. Of many small ones that
are received in a row, a few hundred are brought to disk with one call and get their names together.
Each process has a directory for them that it holds locked: what is in one that nobody holds is of a
process that was killed, and is taken up by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import itertools
import os
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from slipway.errors import BlobBroken, DiskFull

_CHUNK = 1 << 20
#: How many files, and bytes, wait to be brought to disk together at most.
_TOGETHER, _TOGETHER_BYTES = 256, 256 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """The blobs below one directory. Any number of processes and threads may work with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "cas" / "sha256"
        self._incoming = root / "incoming"
        self._quarantine = root / "quarantine"
        self._derived = root / "derived"
        #: Directories that got a new name which may not be on disk yet.
        self._unsettled: set[Path] = set()
        #: What has been received whole and waits for its name, with its size.
        self._received: dict[str, int] = {}
        #: Where small blobs are that do, in a directory of this process, with hash and size.
        self._small: dict[Path, tuple[str, int]] = {}
        self._own: Path | None = None
        self._numbers = itertools.count()
        #: Bytes of both.
        self._waiting_bytes = 0
        self._lock = threading.Lock()

    @property
    def blobs_root(self) -> Path:
        """The directory below which blobs are, each in one named by how its hash begins."""
        return self._blobs

    def path(self, sha256: str) -> Path:
        """Where a blob is, or would be."""
        return Path(f"{self._blobs}/{sha256[:2]}/{sha256}")

    def size(self, sha256: str) -> int | None:
        """How many bytes a blob has; None when it is not here."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str) -> bytes:
        """The bytes of a blob. Raises `BlobBroken` when they are not those of its name."""
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise BlobBroken(f"blob {sha256} is not in {self.root}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BlobBroken(f"{self.path(sha256)} is damaged; 'slipway mirror repair' heals it")
        return data

    def put(self, data: bytes | bytearray) -> str:
        """Keep these bytes; answers their SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        with self.receiving(sha256, len(data)) as incoming:
            if not incoming.complete:
                incoming.restart()
                incoming.write(data)
                incoming.finish()
        return sha256

    def add(self, sha256: str, data: bytes) -> None:
        """Keep a small blob of which the bytes are here; it gets its name together with others, at
        the latest when the store is settled. Raises `BlobBroken` when it is not what it should be,
        and `DiskFull`."""
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            self._mkdir(self._quarantine)
            (self._quarantine / sha256).write_bytes(data)
            raise BlobBroken(f"received {len(data)} bytes with SHA-256 {found} instead of {sha256}")
        # Never one that is there: by now it may be a blob.
        path = self._own_directory() / f"{sha256}-{os.getpid()}-{next(self._numbers)}"
        try:
            _write_small(path, data)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno not in _FULL:
                raise
            raise self.full(len(data)) from error
        with self._lock:
            self._small[path] = (sha256, len(data))
            self._waiting_bytes += len(data)
        if self._enough():
            self._give_names()

    def take_up(self) -> None:
        """Keep what processes that were killed had received and not named."""
        for directory in self._incoming.glob("*/"):
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for path in directory.iterdir():
                        data = path.read_bytes()
                        # It may have been cut off, or be lost from a disk that had no power.
                        sha256 = path.name.partition("-")[0]
                        if hashlib.sha256(data).hexdigest() == sha256:
                            self.add(sha256, data)
                        path.unlink()
                    directory.rmdir()
                except BlockingIOError:
                    # Somebody is at work there.
                    continue
                finally:
                    os.close(descriptor)
        self._give_names()

    def _own_directory(self) -> Path:
        """Where this process has small blobs that have no name yet."""
        with self._lock:
            if self._own is None:
                self._incoming.mkdir(parents=True, exist_ok=True)
                own = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self._incoming))
                held = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(held, fcntl.LOCK_EX)
                weakref.finalize(self, _give_back, held, own)
                self._own = own
            return self._own

    @contextlib.contextmanager
    def receiving(self, sha256: str, size: int) -> Iterator[Incoming]:
        """Receive a blob, alone: whoever else wants the same one waits, and then finds it here.
        What an earlier attempt has received is there to be gone on with."""
        self._mkdir(self._incoming)
        waiting = self._incoming / sha256
        with _locked(waiting) as file:
            incoming = Incoming(self, file, waiting, sha256, size)
            try:
                yield incoming
            finally:
                incoming.leave()
        # Not while the file is locked: it may be among them.
        if self._enough():
            self._give_names()

    def alias(self, algorithm: str, digest: str, sha256: str) -> None:
        """Let a blob be found by another hash as well."""
        link = self._other(algorithm, digest)
        self._mkdir(link.parent)
        target = os.path.relpath(self.path(sha256), link.parent)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(target)
            self._note(link.parent)

    def find(self, algorithm: str, digest: str) -> str | None:
        """The SHA-256 of the blob with this hash; None when it is not here."""
        if algorithm == "sha256":
            return digest if self.size(digest) is not None else None
        try:
            found = self._other(algorithm, digest).readlink().name
        except OSError:
            return None
        return found if self.size(found) is not None else None

    def aliases(self) -> Iterator[tuple[str, str, str]]:
        """All other hashes: algorithm, digest, and the SHA-256 of the blob that has it."""
        for link in (self.root / "by").glob("*/*/*"):
            yield link.parent.parent.name, link.name, link.readlink().name

    def settle(self) -> None:
        """Have the bytes and names of all blobs on disk: to be called before anything that names
        them is committed. Raises `DiskFull`."""
        self._give_names()
        with self._lock:
            directories, self._unsettled = self._unsettled, set()
        _to_disk(self.root, directories)

    def derived(self, kind: str, sha256: str, make: Callable[[], bytes | bytearray]) -> Path:
        """A file that was made from a blob, now if not before. Two that need it at once may both
        make it."""
        path = self._derived / kind / sha256[:2] / sha256
        if not path.exists():
            self._mkdir(path.parent)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
                try:
                    draft.write(make())
                    # It may be thrown away, but not be there in part.
                    draft.flush()
                    os.fsync(draft.fileno())
                except BaseException:
                    Path(draft.name).unlink()
                    raise
            Path(draft.name).replace(path)
        return path

    def forget_derived(self) -> None:
        """Remove what was made from blobs that are not here any more."""
        for path in self._derived.glob("*/*/*"):
            if self.size(path.name) is None:
                path.unlink()

    def discard(self, sha256: str) -> None:
        """Take a damaged blob out of the way."""
        self.set_aside(self.path(sha256))

    def blobs(self) -> Iterator[Path]:
        """The files of all blobs."""
        return self._blobs.glob("*/*")

    def leftovers(self) -> Iterator[Path]:
        """What is not received yet, and what was set aside."""
        yield from filter(Path.is_file, self._incoming.glob("*"))
        yield from self._incoming.glob("*/*")
        yield from self._quarantine.glob("*")

    def forget_aliases(self) -> None:
        """Remove the links to blobs that are not here any more."""
        for link in (self.root / "by").glob("*/*/*"):
            if not link.exists():
                link.unlink()

    def free_bytes(self) -> int:
        """How much room there is."""
        self._mkdir(self.root)
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def _other(self, algorithm: str, digest: str) -> Path:
        return self.root / "by" / algorithm / digest[:2] / digest

    def keep(self, received: Path, sha256: str) -> None:
        """Give what was received its name. For `Incoming`."""
        final = self.path(sha256)
        self._mkdir(final.parent)
        try:
            # Unlike a rename, a link never replaces what is there.
            final.hardlink_to(received)
            received.unlink()
        except FileExistsError:
            # The same bytes, or what is left of them.
            received.replace(final)
        self._note(final.parent)

    def wait_for_name(self, sha256: str, size: int) -> None:
        """Give what was received its name when enough others wait, too. For `Incoming`."""
        with self._lock:
            self._received[sha256] = size
            self._waiting_bytes += size

    def _enough(self) -> bool:
        count = len(self._received) + len(self._small)
        return count >= _TOGETHER or self._waiting_bytes >= _TOGETHER_BYTES

    def _give_names(self) -> None:
        with self._lock:
            received, self._received = self._received, {}
            small, self._small = self._small, {}
            self._waiting_bytes = 0
        paths = [*(self._incoming / sha256 for sha256 in received), *small]
        if not paths:
            return
        try:
            _to_disk(self.root, paths)
        except OSError as error:
            # What could not be written is still shown by the system, and would be believed.
            for path in paths:
                path.unlink(missing_ok=True)
            if error.errno not in _FULL:
                raise
            size = sum(received.values()) + sum(size for _, size in small.values())
            raise self.full(size) from error
        for sha256, size in received.items():
            self._give_name(sha256, size)
        for path, (sha256, _) in small.items():
            final = self.path(sha256)
            try:
                path.replace(final)
            except FileNotFoundError:
                self._mkdir(final.parent)
                path.replace(final)
            self._note(final.parent)

    def _give_name(self, sha256: str, size: int) -> None:
        path = self._incoming / sha256
        with _locked(path) as file:
            if os.fstat(file.fileno()).st_size == size:
                self.keep(path, sha256)
                return
            path.unlink()
        # Another process may have received the same and given it its name.
        if self.size(sha256) != size:
            raise BlobBroken(f"{path} was removed before it got its name")

    def full(self, size: int) -> DiskFull:
        """What to raise when so many bytes have no room. For `Incoming`."""
        return DiskFull(f"the disk of {self.root} is full ({size} bytes were to be kept)")

    def set_aside(self, received: Path) -> None:
        """Keep a bad body to be looked at, in place of the last one. For `Incoming`."""
        self._mkdir(self._quarantine)
        received.replace(self._quarantine / received.name)

    def _mkdir(self, directory: Path) -> None:
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            for parent in (directory.parent, directory.parent.parent):
                self._note(parent)

    def _note(self, directory: Path) -> None:
        with self._lock:
            self._unsettled.add(directory)


class Incoming:
    """A blob that is being received."""

    def __init__(self, store: Store, file: BinaryIO, path: Path, sha256: str, size: int) -> None:
        self._store = store
        self._file = file
        self._path = path
        self._sha256 = sha256
        self._size = size
        self._digest = hashlib.sha256()
        #: How many bytes are here.
        self.have = 0
        #: Whether the blob is in the store.
        self.complete = store.size(sha256) == size
        #: Whether the file still has the name it is received under.
        self._waiting = True
        if not self.complete:
            self._take_up()

    def write(self, data: bytes | bytearray) -> None:
        """Append. Raises `DiskFull`, and then gives the room back."""
        try:
            self._file.write(data)
        except OSError as error:
            self._give_up(error)
        self._digest.update(data)
        self.have += len(data)

    def restart(self) -> None:
        """Forget what is here."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.have = 0

    def finish(self, *, together: bool = False) -> None:
        """All is here; it gets its name now, or ``together`` with others, at the latest when the
        store is settled. Raises `BlobBroken` when it is not what it should be; it is then set
        aside, and the next attempt begins anew."""
        found = self._digest.hexdigest()
        if found != self._sha256:
            self._store.set_aside(self._path)
            self._waiting = False
            raise BlobBroken(
                f"received {self.have} bytes with SHA-256 {found} instead of {self._size} bytes "
                f"with {self._sha256}"
            )
        os.fchmod(self._file.fileno(), 0o444)
        self._waiting = False
        if together:
            self._store.wait_for_name(self._sha256, self._size)
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._waiting = True
            self._give_up(error)
        self._store.keep(self._path, self._sha256)
        self.complete = True

    def leave(self) -> None:
        """Nobody goes on with nothing."""
        if self._waiting and (self.complete or not self.have):
            self._path.unlink()

    def _take_up(self) -> None:
        """Go on where an earlier attempt was cut short, unless that had more than there can be."""
        while data := self._file.read(_CHUNK):
            self._digest.update(data)
            self.have += len(data)
        if self.have > self._size:
            self.restart()

    def _give_up(self, error: OSError) -> None:
        if error.errno not in _FULL:
            raise error
        self.restart()
        raise self._store.full(self._size) from error


def _write_small(path: Path, data: bytes) -> None:
    """With as few calls of the system as can be: among threads, each costs more than the write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, data[written:])
        if _has_odd_umask():
            os.fchmod(descriptor, 0o444)
    finally:
        os.close(descriptor)


@functools.cache
def _has_odd_umask() -> bool:
    """Whether files made to be read by all would not be."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "x")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))
        return stat.S_IMODE(path.stat().st_mode) != 0o444


def _give_back(held: int, own: Path) -> None:
    """Let a directory of small blobs go; what is left in it stays for the next to take up."""
    with contextlib.suppress(OSError):
        own.rmdir()
    os.close(held)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file of this name, made if need be, as nobody else has it."""
    while True:
        # Unbuffered: what was written is in the file when the process is killed.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had it before may have given it its final name, or removed it.
            if _is_still(path, file):
                yield file
                return


def _is_still(path: Path, file: BinaryIO) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return found.st_ino == os.fstat(file.fileno()).st_ino


def _to_disk(root: Path, paths: Collection[Path]) -> None:
    """Have files and directories below ``root`` on disk."""
    sync_all = _sync_all()
    if len(paths) > 1 and sync_all is not None:
        paths, sync = [root], sync_all
    else:
        sync = os.fsync
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            # Moved by another process meanwhile: whoever needs it looks for it.
            continue
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


@functools.cache
def _sync_all() -> Callable[[int], None] | None:
    """What brings a whole file system to disk, in the time that one file takes; None where the
    system has no such call."""
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except AttributeError:
        return None

    def sync(descriptor: int) -> None:
        if syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return sync
