"""Who has signed a release: checked with the keys of the distribution, by Sequoia."""

from __future__ import annotations

from collections.abc import Sequence

from pysequoia import Cert, Sig, verify
from pysequoia.packet import PacketPile

from slipway.errors import BadSignature, InvalidInput, Problem

_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
_END = b"-----END PGP SIGNATURE-----"


class Keyring:
    """The certificates that may sign a repository."""

    def __init__(self, certificates: Sequence[Cert], name: str) -> None:
        self._certificates = list(certificates)
        self._name = name

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Keyring:
        """Those in a file, binary or armored. Raises `InvalidInput`."""
        try:
            return cls(Cert.split_bytes(data), name)
        except RuntimeError as error:
            what = f"this holds no OpenPGP certificates: {_first_line(error)}"
            raise InvalidInput(Problem(where=name, what=what)) from error

    def signed_text(self, signed: bytes, where: str) -> bytes:
        """The text of a clear-signed file. Raises `BadSignature`, also for text outside the
        signed block: apt refuses it, and Sequoia does not look at it."""
        body = signed.strip(b"\r\n\t ")
        if not signed.startswith(_BEGIN) or not body.endswith(_END):
            raise BadSignature(f"{where}: there is text outside the signed block")
        if body.count(_BEGIN) != 1 or body.count(_END) != 1:
            raise BadSignature(f"{where}: there is more than one signed block")
        try:
            found = verify(bytes=signed, store=self._for_keys).bytes
        except RuntimeError as error:
            raise self._refused(where, error) from error
        assert found is not None, "the bytes of a message that was given as bytes"
        return found

    def check_detached(self, text: bytes, signature: bytes, where: str) -> None:
        """Check a text against a signature in a file of its own. Raises `BadSignature`."""
        failure: RuntimeError | None = None
        try:
            packets = list(PacketPile.from_bytes(signature))
        except RuntimeError as error:
            raise self._refused(where, error) from error
        # Distributions sign with the keys of several releases; one that we know is enough.
        for packet in packets:
            try:
                signed = Sig.from_bytes(bytes(packet))
                verify(bytes=text, store=self._for_keys, signature=signed)
            except RuntimeError as error:
                failure = error
            else:
                return
        raise self._refused(where, failure or RuntimeError("it is empty")) from failure

    def _for_keys(self, _key_ids: list[str]) -> list[Cert]:
        return self._certificates

    def _refused(self, where: str, error: Exception) -> BadSignature:
        return BadSignature(
            f"{where}: no valid signature by a key of {self._name} ({_first_line(error)})"
        )


def _first_line(error: Exception) -> str:
    """Without the backtrace that follows."""
    return str(error).partition("\n")[0].rstrip(".")
