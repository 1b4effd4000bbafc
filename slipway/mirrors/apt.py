"""Taking a suite of an apt repository: its release says by hash what all else has to be."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from slipway.errors import ReleaseRefused, UpstreamUnavailable
from slipway.mirrors import indexes, release, stanzas
from slipway.mirrors.manifest import FileRef
from slipway.mirrors.release import ListedFile, Release
from slipway.mirrors.repository import AptRepository
from slipway.mirrors.taking import Means, Taken, Taking


class SuiteTaking(Taking):
    """A suite of an apt repository."""

    def __init__(self, repository: AptRepository, means: Means) -> None:
        super().__init__(means)
        self._repository = repository
        self._flat = means.suite.endswith("/")
        self._prefix = means.suite.lstrip("./") if self._flat else f"dists/{means.suite}/"

    def _take(self) -> Taken:
        signed = self._release()
        if isinstance(signed, Taken):
            self._check_holds(signed.state.valid_until)
            return self._as_before(signed)
        documents, found = signed
        self._check_holds(found.valid_until)
        self._check_date(found.date)
        listed = dict(self._indexes(found))
        files = {
            self._prefix + path: FileRef(sha256=each.sha256, size=each.size)
            for path, each in listed.items()
        }
        self._fetch_files(files, _names_by_hash if found.by_hash else _names)
        for each in listed.values():
            for algorithm, digest in each.others.items():
                self._store.alias(algorithm.lower(), digest, each.sha256)
        listings = {
            path: self._listing(path, file.sha256)
            for path, file in files.items()
            if indexes.names_files(path)
        }
        self._fetch_pool(listings)
        return self._keep(
            date=found.date,
            valid_until=found.valid_until,
            files=files,
            documents=documents,
            listings=listings,
        )

    # --- The release ------------------------------------------------------------------------------

    def _release(self) -> tuple[dict[str, bytes], Release] | Taken:
        """What is signed, by path, and what it says; or the state of before when it is the same."""
        path, apart = f"{self._prefix}InRelease", f"{self._prefix}Release"
        signed = self._upstream.document(path)
        if signed is not None and self._is_as_before(path, signed):
            assert self._before is not None, "it is as before"
            return self._before
        text = self._upstream.document(apart)
        if signed is None and text is not None and self._is_as_before(apart, text):
            assert self._before is not None, "it is as before"
            return self._before
        signature = None if text is None else self._upstream.document(f"{apart}.gpg")
        if signed is not None:
            inline = self._keyring.signed_text(signed, f"{self._repository.name}: {path}")
            found = release.parse(inline, path)
            documents = {path: signed}
            # For those who want them apart. They are three files, and caches keep them apart, too.
            if text and signature and self._says(found, text, signature):
                documents |= {apart: text, f"{apart}.gpg": signature}
            return documents, found
        if text and signature:
            self._keyring.check_detached(text, signature, f"{self._repository.name}: {apart}")
            return {apart: text, f"{apart}.gpg": signature}, release.parse(text, apart)
        raise UpstreamUnavailable(
            f"{self._where}: the upstream has neither {path} nor {apart} with {apart}.gpg"
        )

    def _says(self, found: Release, text: bytes, signature: bytes) -> bool:
        """Whether a release and its signature in a file of its own fit each other and say this."""
        try:
            self._keyring.check_detached(text, signature, self._where)
            return release.parse(text, self._where) == found
        except ReleaseRefused:
            return False

    def _check_holds(self, valid_until: datetime | None) -> None:
        now = self._when()
        if valid_until is not None and valid_until < now:
            raise ReleaseRefused(
                f"{self._where}: its release was valid until {valid_until:%Y-%m-%d %H:%M} UTC, and "
                f"it is {now:%Y-%m-%d %H:%M} UTC: the upstream is stale"
            )

    # --- Indexes ----------------------------------------------------------------------------------

    def _indexes(self, found: Release) -> Iterator[tuple[str, ListedFile]]:
        """Those wanted of a release, each in the form that compresses best. Raises
        `ReleaseRefused` for a component or architecture that it does not have."""
        for base, required in self._wanted(found):
            for suffix in stanzas.COMPRESSIONS:
                listed = found.files.get(base + suffix)
                if listed is not None:
                    yield base + suffix, listed
                    break
            else:
                if required:
                    raise ReleaseRefused(
                        f"{self._where}: its release has no {base}; it has the components "
                        f"{' '.join(found.components) or '(none)'} and the architectures "
                        f"{' '.join(found.architectures) or '(none)'}"
                    )

    def _wanted(self, found: Release) -> Iterator[tuple[str, bool]]:
        """Paths without the suffix of a compression, and whether somebody has asked for just it."""
        wanted = self._repository
        if self._flat:
            yield "Packages", True
            yield from [("Sources", False)] if wanted.sources else []
            return
        # Some say "updates/main" of what is in "main".
        components = wanted.components or [each.rpartition("/")[2] for each in found.components]
        for component in components:
            asked = bool(wanted.components)
            for architecture in wanted.architectures:
                yield f"{component}/binary-{architecture}/Packages", asked
                if wanted.installer:
                    base = f"{component}/debian-installer/binary-{architecture}/Packages"
                    yield base, False
                if wanted.contents:
                    yield f"{component}/Contents-{architecture}", False
            if found.all_apart:
                yield f"{component}/binary-all/Packages", False
            if wanted.sources:
                yield f"{component}/source/Sources", asked
            for language in wanted.languages:
                yield f"{component}/i18n/Translation-{language}", False


def _names(path: str, _file: FileRef) -> list[str]:
    return [path]


def _names_by_hash(path: str, file: FileRef) -> list[str]:
    # By its hash it stays the file that the release means, whatever is published meanwhile.
    directory, slash, _ = path.rpartition("/")
    return [f"{directory}{slash}by-hash/SHA256/{file.sha256}", path]
