"""Weather in front of an EC2 stand-in: what the real EC2 does and moto does not.

`Weather` is an HTTP proxy on loopback. Point an `Ec2Cloud` (or any EC2 client) at its ``url``::

    with Weather(upstream="http://127.0.0.1:5000", pending_s=0.1) as weather:
        options = Ec2Options(regions={"eu-central-1": Ec2Region()}, endpoint_url=weather.url)
        weather.lose_reply("RunInstances")  # the next one happens, and its answer is lost

It remembers client tokens, keeps instances pending and unlisted for a while, empties throttle
buckets, refuses image names that are taken and instance types that are not, and fails to order.
"""

from __future__ import annotations

import base64
import http.client
import re
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

from slipway.clock import Clock
from slipway.testing.query_api import Answer, Asked, Bucket, QueryServer, Request, error_answer

__all__ = ["Asked", "Bucket", "Machines", "Weather"]

_NAMESPACE = re.compile(rb'xmlns="([^"]+)"')
#: Signed anew at every try, so no part of what was asked.
_NOT_ASKED = ("Action", "Version")


class Machines(Protocol):
    """Real machines behind the instances, for tests that log in to them."""

    def run(self, instance_id: str, *, public_key: str, user_data: str) -> None:
        """Make the machine of a new instance."""

    def where(self, instance_id: str) -> tuple[str, int] | None:
        """Address and SSH port; None as long as it does not run."""

    def console(self, instance_id: str) -> str:
        """What its console printed."""

    def change(self, action: str, instance_id: str) -> None:
        """Stop, start, reboot or terminate it: EC2's name of the action."""


@dataclass(kw_only=True)
class _Fault:
    action: str
    left: int
    code: str = ""
    status: int = 400
    reset: bool = False
    after: bool = False
    delay_s: float = 0.0


class Weather(QueryServer):
    """The proxy. Use it as a context manager."""

    #: The tag that tells the SSH port of a machine behind an instance.
    SSH_PORT_TAG = "slipway-testing:ssh-port"

    def __init__(
        self,
        *,
        upstream: str,
        clock: Clock | None = None,
        pending_s: float = 0.0,
        unlisted_s: float = 0.0,
        buckets: Mapping[str, Bucket] | None = None,
        instance_types: Sequence[str] = (),
        machines: Machines | None = None,
    ) -> None:
        self._upstream = urlsplit(upstream).netloc
        super().__init__(clock=clock, buckets=buckets)
        self.pending_s = pending_s
        #: How long a new instance is unknown to every other call.
        self.unlisted_s = unlisted_s
        self._instance_types = frozenset(instance_types)
        self._machines = machines
        self._token_locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(
            threading.Lock
        )
        self._tokens: dict[tuple[str, str], tuple[Mapping[str, str], Answer]] = {}
        self._image_lock = threading.Lock()
        self._made_at: dict[str, float] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._faults: list[_Fault] = []

    # -- bad weather to order ----------------------------------------------------------------------

    def fail(self, action: str, code: str, *, status: int = 400, times: int = 1) -> None:
        """Answer the next calls with this error, without effect: ``InsufficientInstanceCapacity``,
        or ``InternalError`` with status 500."""
        self._order(_Fault(action=action, left=times, code=code, status=status))

    def reset(self, action: str, *, times: int = 1) -> None:
        """Reset the connection of the next calls before they have an effect."""
        self._order(_Fault(action=action, left=times, reset=True))

    def lose_reply(self, action: str, *, times: int = 1) -> None:
        """Let the next calls have their effect, then reset the connection instead of answering."""
        self._order(_Fault(action=action, left=times, reset=True, after=True))

    def slow(self, action: str, delay_s: float, *, times: int = 1) -> None:
        """Answer the next calls late, by the proxy's clock."""
        self._order(_Fault(action=action, left=times, delay_s=delay_s))

    def _order(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _take_fault(self, action: str) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.action == action and fault.left > 0:
                    fault.left -= 1
                    return fault
        return None

    # -- one request -------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer | None:
        """See `QueryServer`."""
        asked = request.asked
        fault = self._take_fault(asked.action)
        if fault is not None:
            if fault.delay_s:
                self._clock.sleep(fault.delay_s)
            elif fault.code:
                return error_answer(fault.code, "ordered by a test", status=fault.status)
            elif not fault.after:
                return None
        answer = self._serve(request)
        return None if fault is not None and fault.after else answer

    def _serve(self, request: Request) -> Answer:
        asked = request.asked
        if asked.action == "RunInstances":
            return self._run(request)
        if asked.action == "CreateImage":
            return self._create_image(request)
        ids = [v for k, v in asked.parameters.items() if re.fullmatch(r"InstanceId(\.\d+)?", k)]
        for instance_id in ids:
            if self._age_s(instance_id) < self.unlisted_s:
                what = f"The instance ID '{instance_id}' does not exist"
                return error_answer("InvalidInstanceID.NotFound", what)
        answer = self._forward(request)
        if answer.status == http.HTTPStatus.OK:
            if asked.action == "ImportKeyPair":
                name = asked.parameters["KeyName"]
                self._keys[asked.region, name] = asked.parameters["PublicKeyMaterial"]
            elif asked.action == "DescribeInstances":
                return self._changed(answer)
            elif self._machines is not None and ids:
                return self._with_machine(request, ids, answer)
        return answer

    def _run(self, request: Request) -> Answer:
        asked = request.asked
        kind = asked.parameters.get("InstanceType", "")
        if self._instance_types and kind not in self._instance_types:
            return error_answer(
                "InvalidParameterValue", f"Invalid value '{kind}' for InstanceType."
            )
        token = asked.parameters.get("ClientToken")
        if token is None:
            return self._changed(self._run_anew(request))
        said = {k: v for k, v in asked.parameters.items() if k not in _NOT_ASKED}
        key = (asked.region, token)
        with self._lock:
            one_at_a_time = self._token_locks[key]
        with one_at_a_time:
            if key in self._tokens:
                before, answer = self._tokens[key]
                if before != said:
                    what = "Arguments on this idempotent request are inconsistent with before."
                    return error_answer("IdempotentParameterMismatch", what)
                return self._changed(answer)
            answer = self._run_anew(request)
            if answer.status == http.HTTPStatus.OK:
                self._tokens[key] = (said, answer)
        return self._changed(answer)

    def _run_anew(self, request: Request) -> Answer:
        answer = self._forward(request)
        if answer.status != http.HTTPStatus.OK:
            return answer
        parameters = request.asked.parameters
        for made in re.findall(rb"<instanceId>([^<]+)</instanceId>", answer.body):
            instance_id = made.decode()
            self._made_at[instance_id] = self._clock.monotonic()
            if self._machines is not None:
                key = self._keys[request.asked.region, parameters["KeyName"]]
                data = parameters.get("UserData", "")
                self._machines.run(
                    instance_id,
                    public_key=base64.b64decode(key).decode(),
                    user_data=base64.b64decode(data).decode(),
                )
        return answer

    def _create_image(self, request: Request) -> Answer:
        name = request.asked.parameters["Name"]
        question = {
            "Action": "DescribeImages",
            "Version": request.asked.parameters["Version"],
            "Owner.1": "self",
            "Filter.1.Name": "name",
            "Filter.1.Value.1": name,
        }
        with self._image_lock:
            known = self._forward(request, body=urlencode(question).encode())
            if b"<imageId>" in known.body:
                return error_answer(
                    "InvalidAMIName.Duplicate", f"AMI name {name} is already in use."
                )
            # moto raises for a second kind: the snapshot stays without tags.
            first = {
                k: v
                for k, v in request.asked.parameters.items()
                if not re.match(r"TagSpecification\.(?!1\.)", k)
            }
            return self._forward(request, body=urlencode(first).encode())

    def _with_machine(self, request: Request, ids: Sequence[str], answer: Answer) -> Answer:
        assert self._machines is not None
        if request.asked.action != "GetConsoleOutput":
            for instance_id in ids:
                self._machines.change(request.asked.action, instance_id)
            return answer
        text = base64.b64encode(self._machines.console(ids[0]).encode())
        body = re.sub(rb"<output>[^<]*</output>", b"<output>" + text + b"</output>", answer.body)
        return Answer(status=answer.status, body=body)

    def _age_s(self, instance_id: str) -> float:
        made_at = self._made_at.get(instance_id)
        return float("inf") if made_at is None else self._clock.monotonic() - made_at

    def _changed(self, answer: Answer) -> Answer:
        """The instances of an answer as EC2 would show them now."""
        if answer.status != http.HTTPStatus.OK:
            return answer
        found = _NAMESPACE.search(answer.body)
        uri = found.group(1).decode() if found else ""
        ns = {"e": uri}
        root = ET.fromstring(answer.body)
        is_listing = root.tag.endswith("DescribeInstancesResponse")
        for items in root.iterfind(".//e:instancesSet", ns):
            for item in list(items):
                instance_id = item.findtext("e:instanceId", "", ns)
                age_s = self._age_s(instance_id)
                if is_listing and age_s < self.unlisted_s:
                    items.remove(item)
                    continue
                self._show(item, instance_id, ns, pending=age_s < self.pending_s)
        ET.register_namespace("", uri)
        return Answer(status=answer.status, body=ET.tostring(root, encoding="utf-8"))

    def _show(
        self, item: ET.Element, instance_id: str, ns: dict[str, str], *, pending: bool
    ) -> None:
        state = item.find("e:instanceState", ns)
        assert state is not None
        uri = "{" + ns["e"] + "}"
        runs = state.findtext("e:name", "", ns) == "running"
        where = None
        if self._machines is not None and instance_id in self._made_at and runs:
            where = self._machines.where(instance_id)
            pending = pending or where is None
        if runs and pending:
            for name, value in (("code", "0"), ("name", "pending")):
                part = state.find(f"e:{name}", ns)
                assert part is not None
                part.text = value
        if where is not None:
            for name in ("ipAddress", "privateIpAddress"):
                part = item.find(f"e:{name}", ns)
                part = ET.SubElement(item, uri + name) if part is None else part
                part.text = where[0]
            tags = item.find("e:tagSet", ns)
            tags = ET.SubElement(item, uri + "tagSet") if tags is None else tags
            tag = ET.SubElement(tags, uri + "item")
            ET.SubElement(tag, uri + "key").text = self.SSH_PORT_TAG
            ET.SubElement(tag, uri + "value").text = str(where[1])

    def _forward(self, request: Request, *, body: bytes | None = None) -> Answer:
        body = request.body if body is None else body
        skip = ("host", "content-length", "connection", "accept-encoding")
        headers = {k: v for k, v in request.headers.items() if k.lower() not in skip}
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.request("POST", request.path, body, headers)
            response = connection.getresponse()
            kept = [
                (k, v) for k, v in response.getheaders() if k.lower().startswith(("content-type",))
            ]
            return Answer(status=response.status, body=response.read(), headers=kept)
        finally:
            connection.close()
