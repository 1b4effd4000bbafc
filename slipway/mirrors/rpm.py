"""Taking a directory of an rpm repository: its ``repomd.xml`` says by hash what all else has to be.

https://createrepo.readthedocs.io describes the files; all of them are kept as they are, also those
that nothing here reads: made again, modules and advisories would be lost.
"""

from __future__ import annotations

import re

from slipway.errors import BadSignature, ReleaseRefused, UpstreamUnavailable
from slipway.mirrors import repomd
from slipway.mirrors.primary import DIRECTORY
from slipway.mirrors.repomd import Repomd
from slipway.mirrors.repository import RpmRepository
from slipway.mirrors.taking import Means, Taken, Taking

#: ``primary.xml.gz``, before which most repositories put the hash.
_PRIMARY = re.compile(r"primary\.xml(?:\.[a-z0-9]+)?\Z")


class DirectoryTaking(Taking):
    """A directory with a ``repodata`` in it."""

    signed = "repomd.xml"

    def __init__(self, repository: RpmRepository, means: Means) -> None:
        super().__init__(means)
        self._repository = repository
        self._prefix = means.suite.lstrip("/")

    def _take(self) -> Taken:
        signed = self._repomd()
        if isinstance(signed, Taken):
            return self._as_before(signed)
        documents, found = signed
        self._check_date(found.date)
        files = {self._prefix + path: file for path, file in found.files.items()}
        self._fetch_files(files, lambda path, _file: [path])
        index = self._prefix + _plain(found.primary)
        listings = {index: self._listing(index, found.files[found.primary].sha256)}
        self._fetch_pool(listings)
        return self._keep(
            date=found.date, valid_until=None, files=files, documents=documents, listings=listings
        )

    def _repomd(self) -> tuple[dict[str, bytes], Repomd] | Taken:
        """What is signed, by path, and what it says; or the state of before when it is the same."""
        path = f"{self._prefix}{DIRECTORY}/repomd.xml"
        text = self._upstream.document(path)
        if text is None:
            raise UpstreamUnavailable(f"{self._where}: the upstream has no {path}")
        if self._before is not None and self._is_as_before(path, text):
            return self._before
        documents = {path: text}
        if self._repository.signed_metadata:
            signature = self._upstream.document(f"{path}.asc")
            if signature is None:
                raise BadSignature(f"{self._where}: the upstream has no {path}.asc")
            self._keyring.check_detached(text, signature, f"{self._name}: {path}")
            documents[f"{path}.asc"] = signature
        return documents, repomd.parse(text, f"{self._name}: {path}")


def _plain(primary: str) -> str:
    """The path of the index of packages as one that stays, without the hash that is in its name: by
    it two states are compared."""
    directory, slash, name = primary.rpartition("/")
    found = _PRIMARY.search(name)
    if found is None:
        raise ReleaseRefused(f"{primary} is not named as an index of packages is (primary.xml.gz)")
    return f"{directory}{slash}{found[0]}"
