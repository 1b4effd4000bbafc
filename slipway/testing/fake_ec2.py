"""`FakeEc2`: the few calls of EC2 that launching takes, fast enough for ten thousand instances.

For tests and measurements of many. It is strict where EC2 is (ids and paging exclude each other, a
client token is for one set of parameters, one unknown id fails the whole call) and throttles by
bucket; moto behind `slipway.testing.weather` knows far more calls, and takes seconds to list
hundreds. ::

    with FakeEc2(buckets={"describe": Bucket(size=50, per_s=10)}, boot_s=lambda: 30.0) as ec2:
        options = Ec2Options(regions={"eu-central-1": Ec2Region()}, endpoint_url=ec2.url)
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from xml.sax.saxutils import escape

from slipway.clock import Clock
from slipway.testing.query_api import Answer, Bucket, QueryServer, Request, error_answer

_XMLNS = "http://ec2.amazonaws.com/doc/2016-11-15/"
_CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
#: Signed anew at every try, so no part of what was asked.
_NOT_ASKED = ("Action", "Version")
#: What EC2 allows as MaxResults of DescribeInstances.
_PAGE = (5, 1000)

IMAGE_ID = "ami-00000000000000001"


@dataclass(eq=False, kw_only=True)
class FakeInstance:
    """One instance. It runs from a moment on that is drawn when it is made."""

    id: str
    region: str
    tags: dict[str, str]
    image_id: str
    instance_type: str
    token: str
    made_at: datetime
    number: int
    #: On the clock's monotonic time.
    runs_from: float
    state: str = "pending"
    reason: str = ""
    _xml: dict[str, str] = field(default_factory=dict)

    def state_at(self, now_s: float) -> str:
        """What it shows at this time."""
        if self.state == "pending" and now_s >= self.runs_from:
            self.state = "running"
        return self.state

    def changed(self) -> None:
        """It has to be written anew."""
        self._xml.clear()

    def xml(self, now_s: float) -> str:
        """As an item of a listing; written once for each state."""
        state = self.state_at(now_s)
        if state not in self._xml:
            self._xml[state] = self._write(state)
        return self._xml[state]

    def _write(self, state: str) -> str:
        tags = "".join(
            f"<item><key>{escape(k)}</key><value>{escape(v)}</value></item>"
            for k, v in self.tags.items()
        )
        # Documentation addresses, which never answer (RFC 5737).
        address = f"198.51.100.{self.number % 250 + 1}"
        where = f"<privateIpAddress>{address}</privateIpAddress>" if state != "pending" else ""
        return (
            "<item><reservationId>r-1</reservationId><instancesSet><item>"
            f"<instanceId>{self.id}</instanceId><imageId>{self.image_id}</imageId>"
            f"<instanceState><code>{_CODES[state]}</code><name>{state}</name></instanceState>"
            f"<reason>{escape(self.reason)}</reason>"
            f"<instanceType>{self.instance_type}</instanceType>"
            f"<launchTime>{self.made_at:%Y-%m-%dT%H:%M:%S.000Z}</launchTime>{where}"
            f"<clientToken>{escape(self.token)}</clientToken><tagSet>{tags}</tagSet>"
            "</item></instancesSet></item>"
        )


class FakeEc2(QueryServer):
    """The server. Use it as a context manager."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        buckets: Mapping[str, Bucket] | None = None,
        boot_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__(clock=clock, buckets=buckets)
        self._boot_s = boot_s
        self.instances: dict[str, FakeInstance] = {}
        self._tokens: dict[tuple[str, str], tuple[str, str]] = {}
        #: When each listing began, on the clock's monotonic time; not when it went on.
        self.listed_at: list[float] = []
        #: Where listings go on, by the marker that was given out.
        self._rest: dict[str, Sequence[FakeInstance]] = {}

    def add(self, count: int, *, region: str, tags: Mapping[str, str]) -> list[FakeInstance]:
        """New instances, without anybody asking for them."""
        with self._lock:
            return [self._make(region, {"ImageId": IMAGE_ID}, dict(tags)) for _ in range(count)]

    def change(self, instance_id: str, state: str, *, reason: str = "") -> None:
        """Put an instance into a state, as if somebody else had asked for it."""
        with self._lock:
            found = self.instances[instance_id]
            found.state, found.reason = state, reason
            found.changed()

    def answer(self, request: Request) -> Answer | None:
        """See `QueryServer`."""
        actions: Mapping[str, Callable[[Request], Answer]] = {
            "RunInstances": self._run,
            "DescribeInstances": self._describe,
            "DescribeImages": self._describe_images,
            "DescribeInstanceStatus": lambda each: _ok(each, "<instanceStatusSet/>"),
            "DescribeSpotInstanceRequests": lambda each: _ok(each, "<spotInstanceRequestSet/>"),
            "ImportKeyPair": lambda each: _ok(each, ""),
            "TerminateInstances": lambda each: self._move(each, "terminated"),
            "StopInstances": lambda each: self._move(each, "stopped"),
            "StartInstances": lambda each: self._move(each, "pending"),
            "CreateTags": self._tag,
        }
        work = actions.get(request.asked.action)
        if work is None:
            return error_answer("InvalidAction", f"{request.asked.action} is not known here")
        with self._lock:
            return work(request)

    def _run(self, request: Request) -> Answer:
        said = request.asked.parameters
        token, region = said.get("ClientToken", ""), request.asked.region
        wanted = repr(sorted((k, v) for k, v in said.items() if k not in _NOT_ASKED))
        if token and (region, token) in self._tokens:
            instance_id, before = self._tokens[region, token]
            if before != wanted:
                what = "Arguments on this idempotent request are inconsistent with before."
                return error_answer("IdempotentParameterMismatch", what)
            made = self.instances[instance_id]
        else:
            made = self._make(region, said, _tags_of(said, "instance"))
            if token:
                self._tokens[region, token] = (made.id, wanted)
        item = made.xml(self._clock.monotonic())
        return _ok(request, item.partition("</reservationId>")[2].removesuffix("</item>"))

    def _make(self, region: str, said: Mapping[str, str], tags: dict[str, str]) -> FakeInstance:
        number = len(self.instances) + 1
        made = FakeInstance(
            id=f"i-{number:017x}",
            region=region,
            tags=tags,
            image_id=said["ImageId"],
            instance_type=said.get("InstanceType", "t3.small"),
            token=said.get("ClientToken", ""),
            made_at=self._clock.now(),
            number=number,
            runs_from=self._clock.monotonic() + self._boot_s(),
        )
        self.instances[made.id] = made
        return made

    def _describe(self, request: Request) -> Answer:
        said = request.asked.parameters
        ids = _numbered(said, r"InstanceId\.\d+")
        size = int(said.get("MaxResults", 0))
        if ids and size:
            what = "The parameter instancesSet cannot be used with the parameter maxResults"
            return error_answer("InvalidParameterCombination", what)
        if size and not _PAGE[0] <= size <= _PAGE[1]:
            return error_answer("InvalidParameterValue", f"MaxResults is {size}")
        if unknown := [each for each in ids if each not in self.instances]:
            what = f"The instance IDs '{', '.join(unknown)}' do not exist"
            return error_answer("InvalidInstanceID.NotFound", what)
        marker = said.get("NextToken", "")
        if marker and marker not in self._rest:
            return error_answer("InvalidNextToken", "The token is not valid")
        now_s = self._clock.monotonic()
        found = self._rest.pop(marker) if marker else self._matching(request, ids)
        page, rest = (found[:size], found[size:]) if size else (found, [])
        if not marker:
            self.listed_at.append(now_s)
        items = "".join(each.xml(now_s) for each in page)
        more = ""
        if rest:
            following = secrets.token_hex(8)
            self._rest[following] = rest
            more = f"<nextToken>{following}</nextToken>"
        return _ok(request, f"<reservationSet>{items}</reservationSet>{more}")

    def _matching(self, request: Request, ids: Sequence[str]) -> list[FakeInstance]:
        wanted = [
            (name, _numbered(request.asked.parameters, rf"Filter\.{number}\.Value\.\d+"))
            for number, name in _filters(request.asked.parameters)
        ]
        candidates = [self.instances[each] for each in ids] if ids else self.instances.values()
        now_s = self._clock.monotonic()
        return [
            each
            for each in candidates
            if each.region == request.asked.region
            and all(_fits(each, name, values, now_s) for name, values in wanted)
        ]

    def _describe_images(self, request: Request) -> Answer:
        device = (
            "<item><deviceName>/dev/xvda</deviceName><ebs><volumeSize>8</volumeSize></ebs></item>"
        )
        image = (
            f"<item><imageId>{IMAGE_ID}</imageId><name>base</name>"
            "<imageState>available</imageState><rootDeviceName>/dev/xvda</rootDeviceName>"
            f"<blockDeviceMapping>{device}</blockDeviceMapping></item>"
        )
        return _ok(request, f"<imagesSet>{image}</imagesSet>")

    def _move(self, request: Request, state: str) -> Answer:
        for instance_id in _numbered(request.asked.parameters, r"InstanceId\.\d+"):
            found = self.instances.get(instance_id)
            if found is None:
                what = f"The instance ID '{instance_id}' does not exist"
                return error_answer("InvalidInstanceID.NotFound", what)
            found.state, found.reason = state, "User initiated"
            found.runs_from = self._clock.monotonic() + self._boot_s()
            found.changed()
        return _ok(request, "<instancesSet/>")

    def _tag(self, request: Request) -> Answer:
        said = request.asked.parameters
        for resource_id in _numbered(said, r"ResourceId\.\d+"):
            found = self.instances[resource_id]
            keys, values = _numbered(said, r"Tag\.\d+\.Key"), _numbered(said, r"Tag\.\d+\.Value")
            found.tags.update(zip(keys, values, strict=True))
            found.changed()
        return _ok(request, "<return>true</return>")


def _numbered(said: Mapping[str, str], pattern: str) -> list[str]:
    return [value for name, value in said.items() if re.fullmatch(pattern, name)]


def _filters(said: Mapping[str, str]) -> list[tuple[int, str]]:
    found = ((re.fullmatch(r"Filter\.(\d+)\.Name", name), value) for name, value in said.items())
    return [(int(match[1]), value) for match, value in found if match]


def _fits(instance: FakeInstance, name: str, values: Sequence[str], now_s: float) -> bool:
    if name == "instance-state-name":
        return instance.state_at(now_s) in values
    kind, _, key = name.partition(":")
    if kind != "tag":
        raise ValueError(f"filter {name} is not known here")
    value = instance.tags.get(key)
    return value is not None and any(fnmatch.fnmatchcase(value, each) for each in values)


def _tags_of(said: Mapping[str, str], kind: str) -> dict[str, str]:
    """The tags that are asked for with what is made."""
    for name, value in said.items():
        match = re.fullmatch(r"TagSpecification\.(\d+)\.ResourceType", name)
        if match and value == kind:
            start = rf"TagSpecification\.{match[1]}\.Tag\.\d+\."
            keys, values = _numbered(said, start + "Key"), _numbered(said, start + "Value")
            return dict(zip(keys, values, strict=True))
    return {}


def _ok(request: Request, inner: str) -> Answer:
    action = request.asked.action
    number = hashlib.sha256(inner.encode()).hexdigest()[:16]
    body = (
        f'<{action}Response xmlns="{_XMLNS}"><requestId>{number}</requestId>{inner}'
        f"</{action}Response>"
    )
    return Answer(status=200, body=body.encode())
