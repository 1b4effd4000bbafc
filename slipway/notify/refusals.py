"""Why a request about topics is refused: SNS's own codes, so that SNS's clients understand them.

* RequestRefused
  + InvalidParameter          400  a parameter is wrong
  + ParameterValueInvalid     400  a message attribute is wrong
  + ValidationError           400  a parameter that has to be there is not
  + TopicNotFound             404  a topic, a subscription or an endpoint does not exist
  + ResourceNotFound          404  … for calls about tags
  + AuthorizationError        403  a policy does not let this caller do this
  + CredentialsRefused        403  the request is not signed by a key we know
  + InvalidAction             400  there is no such operation
  + BatchRefused              400  a batch is wrong as a whole; carries its code
  + LimitExceeded             403  there are too many of something; carries its code
  + TagLimitExceeded          400  a topic has too many tags

Source: the error shapes of the SNS API, version 2010-03-31.
"""

from __future__ import annotations

from typing import ClassVar

from slipway.errors import SlipwayError


class RequestRefused(SlipwayError):
    """The request was refused."""

    exit_code = 2
    #: What SNS calls it.
    code: str = "InvalidParameter"
    http_status: ClassVar[int] = 400


class InvalidParameter(RequestRefused):
    """A parameter is wrong."""


class ParameterValueInvalid(RequestRefused):
    """A message attribute is wrong."""

    code = "ParameterValueInvalid"


class ValidationError(RequestRefused):
    """A parameter is missing."""

    code = "ValidationError"


class TopicNotFound(RequestRefused):
    """It does not exist."""

    code = "NotFound"
    http_status = 404


class ResourceNotFound(RequestRefused):
    """It does not exist, so it has no tags."""

    code = "ResourceNotFound"
    http_status = 404


class AuthorizationError(RequestRefused):
    """The caller may not do this."""

    code = "AuthorizationError"
    http_status = 403


class CredentialsRefused(RequestRefused):
    """Who calls could not be made sure of."""

    http_status = 403

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidAction(RequestRefused):
    """There is no such operation."""

    code = "InvalidAction"


class BatchRefused(RequestRefused):
    """A batch is wrong as a whole."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LimitExceeded(RequestRefused):
    """There are too many of something."""

    http_status = 403

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TagLimitExceeded(RequestRefused):
    """A topic has too many tags."""

    code = "TagLimitExceeded"


class ValueInvalid(SlipwayError):
    """The value of an attribute is wrong; said without which call it came with, because SNS words
    that differently for each."""

    exit_code = 2
