"""Message attributes: typed values beside a message's text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from slipway.notify.refusals import ParameterValueInvalid, ValidationError

MAX_NAME_BYTES = 255

_TYPES = ("Binary", "Number", "String")
_ARRAY = "String.Array"


@dataclass(frozen=True, kw_only=True)
class MessageAttribute:
    """One attribute. ``data_type`` is String, String.Array, Number or Binary, with a suffix of the
    sender's own if he likes (``Number.int``); ``value`` is text, base64 for Binary."""

    data_type: str
    value: str

    @property
    def size_bytes(self) -> int:
        """What it adds to the size of a message, besides its name."""
        return len(self.data_type.encode()) + len(self.value.encode())

    def values(self) -> Sequence[Any]:
        """What filter policies compare it by; nothing for what they cannot look into."""
        kind = self.data_type.partition(".")[0]
        if kind == "Number":
            return [_decimal(self.value)]
        if self.data_type == _ARRAY:
            try:
                found = read_json(self.value)
            except ValueError:
                return []
            elements = found if isinstance(found, list) else [found]
            return [each for each in elements if not isinstance(each, list | dict)]
        return [self.value] if kind == "String" else []


def read_json(text: str) -> Any:
    """A document with exact numbers. Raises `ValueError` for what is no JSON, or nested so deeply
    that nobody means it."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_attribute(
    name: str, data_type: str | None, text: str | None, binary: str | None
) -> MessageAttribute:
    """An attribute as it was sent: ``text`` is its StringValue, ``binary`` its BinaryValue in
    base64. Raises `ParameterValueInvalid` or `ValidationError`, in SNS's words."""
    _check_name(name)
    if data_type is None:
        raise ValidationError(
            f"1 validation error detected: Value null at 'messageAttributes.{name}.member.dataType'"
            " failed to satisfy constraint: Member must not be null"
        )
    kind = data_type.partition(".")[0]
    if kind not in _TYPES:
        raise ParameterValueInvalid(
            f"The message attribute '{name}' has an invalid message attribute type, the set of "
            "supported type prefixes is Binary, Number, and String."
        )
    wanted, value, other = (
        ("Binary", binary, text) if kind == "Binary" else ("String", text, binary)
    )
    if value is None and other is not None:
        raise ParameterValueInvalid(
            f"The message attribute '{name}' with type '{data_type}' must use field '{wanted}'."
        )
    if not value:
        raise ParameterValueInvalid(
            f"The message attribute '{name}' must contain non-empty message attribute value for "
            f"message attribute type '{data_type}'."
        )
    if kind == "Number" and _decimal(value) is None:
        raise ParameterValueInvalid(f"Could not cast message attribute '{name}' value to number.")
    return MessageAttribute(data_type=data_type, value=value)


def attributes_size_bytes(attributes: Mapping[str, MessageAttribute]) -> int:
    """What attributes add to the size of a message."""
    return sum(len(name.encode()) + each.size_bytes for name, each in attributes.items())


def _check_name(name: str) -> None:
    if not name:
        raise ParameterValueInvalid("The message attribute name must not be empty.")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ParameterValueInvalid("Length of message attribute name must be less than 256 bytes.")
    foreign = re.search(r"[^A-Za-z0-9_.-]", name)
    if foreign:
        raise ParameterValueInvalid(
            f"Invalid non-alphanumeric character '#x{ord(foreign[0]):X}' was found in the message "
            "attribute name. Can only include alphanumeric characters, hyphens, underscores, or "
            "dots."
        )
    if name.startswith("."):
        raise ParameterValueInvalid(
            "Invalid message attribute name starting with character '.' was found."
        )
    if name.endswith("."):
        raise ParameterValueInvalid(
            "Invalid message attribute name ending with character '.' was found."
        )
    if ".." in name:
        raise ParameterValueInvalid("Message attribute name can not have successive '.' character.")


def refuse_constant(name: str) -> None:
    """For readers of JSON: Python's own reads NaN and Infinity, which nobody else does. Raises
    `ValueError`."""
    raise ValueError(f"{name} is no JSON")


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
