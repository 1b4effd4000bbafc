"""What servers' agents call: ``/agent/v1/``. Not for people, and not opened by API tokens.

An agent is asked nothing that it could do twice with harm: fetching an instruction changes nothing,
reports carry offsets, and a first call that is made again is the same call. So an agent simply
repeats what it got no answer to.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field, JsonValue

from slipway.agent import PROGRAMS, digest_of, program
from slipway.api.problems import MEDIA_TYPE, ApiProblem, ProblemDetails, responses
from slipway.api.state import TheServices
from slipway.clock import Clock
from slipway.errors import AgentRefused, DatabaseUnavailable
from slipway.launches.services import Services
from slipway.phonehome.identity import Caller, Refusal
from slipway.phonehome.instructions import Instruction, Kind, OutputGap, Piece, Stream

router = APIRouter(prefix="/agent/v1", tags=["agent"])

#: An agent that has nothing to do is kept waiting for at most so long …
LONGEST_WAIT_S = 25.0
#: … while the table is looked at so often, once for all who wait.
TICK_S = 0.2
#: When agents called last is written so often, once for all.
SAW_EVERY_S = 1.0

#: A report's output, in base 64.
_MOST_DATA = 256 * 1024
#: A round trip that took longer says nothing about a clock.
_LONGEST_TRIP_S = 60.0

_log = logging.getLogger("slipway.agents")

#: Which of a pair of processes behind one address a mark comes from.
_THIS_PROCESS = secrets.token_hex(8)

STATUS: Mapping[str, int] = {
    Refusal.WRONG: 401,
    Refusal.EXPIRED: 401,
    Refusal.OTHER_INSTANCE: 403,
    Refusal.USED: 409,
    Refusal.OVER: 410,
    Refusal.EARLY: 503,
}


# -- who calls -------------------------------------------------------------------------------------

_bearer = HTTPBearer(
    scheme_name="agent",
    description="The secret an agent made for itself: LAUNCH.GENERATION.SECRET.",
    auto_error=False,
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
_Instance = Annotated[
    str,
    Header(
        alias="Slipway-Instance", max_length=128, description="What the cloud calls the instance."
    ),
]
_Boot = Annotated[
    str, Header(alias="Slipway-Boot", max_length=64, description="Which boot it calls from.")
]


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _credential(credentials: HTTPAuthorizationCredentials | None) -> str:
    if credentials is None:
        raise _refused(AgentRefused(Refusal.WRONG, "send the agent's own bearer credential"))
    return credentials.credentials


def _refused(error: AgentRefused) -> ApiProblem:
    status = STATUS[error.reason]
    headers = {"Retry-After": "2"} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="slipway-agent"'
    return ApiProblem(status, "agent-refused", str(error), headers=headers)


def _caller(
    request: Request, services: TheServices, credentials: _Credentials, instance: _Instance = ""
) -> Caller:
    """The agent that calls. Raises a problem."""
    credential = _credential(credentials)
    try:
        return services.identities.recognise(credential, instance_id=instance, peer=_peer(request))
    except AgentRefused as error:
        raise _refused(error) from error


TheCaller = Annotated[Caller, Depends(_caller)]


class Hello(BaseModel):
    """An agent's first call."""

    token: str = Field(
        max_length=512,
        description="The one-time token of the user data.",
        examples=["slipway-boot.launch-01hkx3v9q2m4c7d8e.1.mZ0…"],
    )
    secret_sha256: str = Field(
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the secret that the agent has made for itself.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    instance_id: str = Field(max_length=128, examples=["i-0123456789abcdef0"])
    facts: dict[str, JsonValue] = Field(
        default_factory=dict,
        max_length=32,
        description="What it says of its server, for the record.",
        examples=[{"host_name": "web-1", "system": "Debian GNU/Linux 12 (bookworm)"}],
    )


class Accepted(BaseModel):
    """The agent may go on."""

    launch: str = Field(examples=["launch-01hkx3v9q2m4c7d8e"])
    generation: int = Field(examples=[1])


@router.post("/hello", operation_id="agentHello", responses=responses(401, 403, 409, 413, 422, 503))
def hello(request: Request, services: TheServices, body: Hello) -> Accepted:
    """Exchange the one-time token for the right to call with a secret of one's own. The same token
    with the same secret is the same call again; with another secret it is refused."""
    try:
        caller = services.identities.hello(
            token=body.token,
            secret_hash=body.secret_sha256,
            instance_id=body.instance_id,
            facts=body.facts,
            peer=_peer(request),
        )
    except AgentRefused as error:
        raise _refused(error) from error
    return Accepted(launch=caller.launch_id, generation=caller.generation)


class NewSecret(BaseModel):
    """A secret to go on with."""

    secret_sha256: str = Field(
        pattern="^[0-9a-f]{64}$",
        examples=["60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"],
    )


class Done(BaseModel):
    """It is as was asked."""

    done: Literal[True] = True


@router.post("/secret", operation_id="agentSecret", responses=responses(401, 403, 409, 413, 422))
def secret(
    request: Request,
    services: TheServices,
    credentials: _Credentials,
    body: NewSecret,
    instance: _Instance = "",
) -> Done:
    """Go on with another secret. Until it is used for the first time, the one before is good for
    making this very call again."""
    try:
        services.identities.change_secret(
            _credential(credentials),
            body.secret_sha256,
            instance_id=instance,
            peer=_peer(request),
        )
    except AgentRefused as error:
        raise _refused(error) from error
    return Done()


# -- instructions ----------------------------------------------------------------------------------


class Mailbox:
    """Agents that wait, and one look at the table for all of them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: dict[asyncio.Future[None], tuple[tuple[str, int], int]] = {}
        self._seen: dict[tuple[str, int], tuple[datetime, str]] = {}
        self._task: asyncio.Task[None] | None = None

    def saw(self, caller: Caller, boot_id: str) -> None:
        """The agent has called; written down with the next look."""
        who = (caller.launch_id, caller.generation)
        self._seen[who] = (self._services.clock.now(), boot_id)
        self._run()

    async def wait(self, caller: Caller, after: int, seconds: float) -> None:
        """Until there is an instruction behind this number, or the time is over."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = ((caller.launch_id, caller.generation), after)
        self._run()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(future, seconds)
        finally:
            self._waiting.pop(future, None)

    def let_go(self) -> None:
        """Answer everybody who waits."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def _run(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_after())

    async def _look_after(self) -> None:
        clock = self._services.clock
        written = clock.monotonic() - SAW_EVERY_S
        while self._waiting or self._seen:
            try:
                if self._seen and clock.monotonic() - written >= SAW_EVERY_S:
                    seen, self._seen = self._seen, {}
                    written = clock.monotonic()
                    await asyncio.to_thread(self._services.identities.saw, seen)
                if self._waiting:
                    newest = await asyncio.to_thread(self._services.instructions.waiting)
                    for future, (who, after) in list(self._waiting.items()):
                        if newest.get(who, 0) > after and not future.done():
                            future.set_result(None)
            except DatabaseUnavailable:
                # Agents that wait are answered when their time is over, and ask again.
                _log.exception("the table of instructions could not be looked at; trying again")
            await asyncio.sleep(TICK_S)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, Mailbox]] = WeakKeyDictionary()


def _mailbox(services: Services) -> Mailbox:
    """The one mailbox of these services in this event loop."""
    found = _mailboxes.setdefault(asyncio.get_running_loop(), {})
    return found.setdefault(id(services), Mailbox(services))


def let_go() -> None:
    """Answer every agent that waits in this event loop, with nothing to do: the process is about
    to stop, and would wait for them."""
    for mailbox in _mailboxes.get(asyncio.get_running_loop(), {}).values():
        mailbox.let_go()


class Next(BaseModel):
    """What an agent wants to know."""

    after: int = Field(
        default=0, ge=0, le=2**31 - 1, description="The number of the instruction it began last."
    )
    wait_s: float = Field(
        default=0, ge=0, description="How long it is willing to wait when there is none."
    )


class InstructionOut(BaseModel):
    """One thing to do; which fields there are depends on the kind."""

    seq: int = Field(examples=[7])
    kind: Kind
    command: str | None = Field(default=None, description="For the system's shell.")
    stdin: str | None = Field(default=None, description="Its standard input, in base 64.")
    timeout_s: float | None = Field(default=None, description="End it after so long.")
    line: str | None = Field(default=None, description="`time`: what to ask it.")
    count: int | None = Field(default=None, description="`time`: how often.")

    @classmethod
    def of(cls, instruction: Instruction) -> InstructionOut:
        """From its record."""
        return cls(seq=instruction.seq, kind=instruction.kind, **instruction.body)


class NextOut(BaseModel):
    """What there is to do."""

    instruction: InstructionOut | None = None
    renew: bool = Field(
        default=False, description="Its secret is old: it should make itself another."
    )


@router.post("/next", operation_id="agentNext", responses=responses(401, 403, 410, 413, 422))
async def next_instruction(
    services: TheServices, caller: TheCaller, body: Next, boot: _Boot = ""
) -> NextOut:
    """The first instruction behind the one the agent began last; kept open for a while when there
    is none. Asking changes nothing: until it is reported on, an instruction is offered again."""
    mailbox = _mailbox(services)
    mailbox.saw(caller, boot)
    ask = functools.partial(
        services.instructions.next, caller.launch_id, caller.generation, after=body.after
    )
    found = await asyncio.to_thread(ask)
    if found is None and body.wait_s:
        await mailbox.wait(caller, body.after, min(body.wait_s, LONGEST_WAIT_S))
        found = await asyncio.to_thread(ask)
    return NextOut(
        instruction=InstructionOut.of(found) if found is not None else None,
        renew=caller.secret_is_old,
    )


class PieceIn(BaseModel):
    """Output, and where in its stream it starts."""

    offset: int = Field(ge=0, le=2**53)
    data: str = Field(max_length=_MOST_DATA, description="In base 64.", examples=["aGVsbG8K"])

    def piece(self) -> Piece:
        """Decoded. Raises a problem."""
        try:
            return Piece(offset=self.offset, data=base64.b64decode(self.data, validate=True))
        except (binascii.Error, ValueError) as error:
            raise ApiProblem(422, "invalid-input", f"data: not base 64: {error}") from error


class TripIn(BaseModel):
    """A timed round trip, as `/clock` told it, and the answer it brought."""

    sent_at: str = Field(max_length=64)
    rtt_s: float
    answer: str = Field(max_length=256)


class Ended(BaseModel):
    """How an instruction ended: one of these."""

    exit_code: int | None = Field(default=None, description="-1 when a signal ended it.")
    timed_out: bool = False
    lost: bool = Field(default=False, description="The agent was restarted in the middle.")
    unknown: bool = Field(default=False, description="The agent does not know this kind.")
    trips: list[TripIn] | None = Field(default=None, max_length=64)


class Report(BaseModel):
    """What an instruction has printed since the last report, and whether it has ended."""

    out: PieceIn | None = None
    err: PieceIn | None = None
    ended: Ended | None = None


class Expected(BaseModel):
    """From which byte on each stream is to go on."""

    out: int = 0
    err: int = 0


class TakenOut(BaseModel):
    """What became of a report."""

    expected: Expected
    wanted: bool = Field(description="Somebody waits for it; if not, it should be ended.")
    full: bool = Field(
        default=False, description="Too much waits to be read: nothing was taken, send it again."
    )


class GapDetails(ProblemDetails):
    """Output goes on behind what has arrived; nothing was taken."""

    expected: Expected


@router.post(
    "/instructions/{seq}/report",
    operation_id="agentReport",
    responses={
        **responses(401, 403, 410, 413, 422),
        409: {
            "description": "Output goes on behind what has arrived: says where it should go on.",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/GapDetails"}}},
            "model": GapDetails,
        },
    },
    response_model=TakenOut,
)
def report(
    services: TheServices, caller: TheCaller, seq: int, body: Report
) -> TakenOut | JSONResponse:
    """Take output and the end of an instruction. What was reported before is taken again without
    effect, and of a piece that overlaps it the rest counts."""
    pieces = {Stream.OUT: body.out, Stream.ERR: body.err}
    ended: dict[str, Any] | None = None
    if body.ended is not None:
        ended = body.ended.model_dump(mode="json", exclude_defaults=True)
        if len(ended) != 1:
            raise ApiProblem(422, "invalid-input", "ended: say how in exactly one way")
    try:
        taken = services.instructions.report(
            caller.launch_id,
            caller.generation,
            seq,
            output={stream: each.piece() for stream, each in pieces.items() if each is not None},
            ended=ended,
        )
    except OutputGap as gap:
        details = GapDetails(
            type="urn:slipway:problem:agent-gap",
            title="Output is missing in between.",
            status=409,
            detail=str(gap),
            expected=_expected(gap.expected),
        )
        return JSONResponse(details.model_dump(), status_code=409, media_type=MEDIA_TYPE)
    return TakenOut(expected=_expected(taken.expected), wanted=taken.wanted, full=taken.full)


def _expected(offsets: Mapping[Stream, int]) -> Expected:
    return Expected(out=offsets.get(Stream.OUT, 0), err=offsets.get(Stream.ERR, 0))


# -- the clock -------------------------------------------------------------------------------------


class Tick(BaseModel):
    """The mark of the answer before, if there was one."""

    mark: str | None = Field(default=None, max_length=128)


class Trip(BaseModel):
    """From our last answer to this call."""

    sent_at: datetime
    rtt_s: float


class Tock(BaseModel):
    """A mark to come back with at once."""

    mark: str
    trip: Trip | None = Field(
        default=None, description="None when the mark is not one of this process, or too old."
    )


async def _arrived(services: TheServices) -> float:
    return services.clock.monotonic()


@router.post("/clock", operation_id="agentClock", responses=responses(401, 403, 410, 413, 422))
async def clock(
    # First, so that finding out who calls is not counted to the way here.
    arrived: Annotated[float, Depends(_arrived)],
    services: TheServices,
    caller: TheCaller,  # noqa: ARG001 - it has to be one of ours
    body: Tick,
) -> Tock:
    """Times round trips: from one answer to the next call. An agent that asks its own clock in
    between lets us compare it with ours, to half the time that took."""
    trip = _trip(body.mark, arrived)
    return Tock(mark=_mark(services.clock), trip=trip)


def _mark(clock: Clock) -> str:
    return f"{_THIS_PROCESS} {clock.monotonic()!r} {clock.now().isoformat()}"


def _trip(mark: str | None, arrived: float) -> Trip | None:
    """What the mark says; None for one that another process has made, which has another clock."""
    try:
        process, left, sent_at = (mark or "").split(" ")
        rtt_s = arrived - float(left)
        at = datetime.fromisoformat(sent_at)
    except ValueError:
        return None
    if process != _THIS_PROCESS or not 0 <= rtt_s <= _LONGEST_TRIP_S or at.tzinfo is None:
        return None
    return Trip(sent_at=at, rtt_s=rtt_s)


# -- the agent itself ------------------------------------------------------------------------------

_PROGRAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/x-python": {}, "text/plain": {}}, "description": "The program."}
}


@router.get(
    "/{name}",
    operation_id="agentProgram",
    response_class=Response,
    responses={**_PROGRAM, **responses(404, 422)},
)
def agent_program(
    services: TheServices,
    name: Literal["agent.py", "agent.ps1"],
    sha256: Annotated[
        str | None,
        Query(
            pattern="^[0-9a-f]{64}$",
            description="Exactly this one, as a server's user data asks for it; else the newest.",
        ),
    ] = None,
) -> Response:
    """The agent, for servers to fetch. It holds no secret, so anybody may."""
    content: bytes | None = program(name)
    if sha256 is not None and digest_of(content or b"") != sha256:
        content = services.identities.program(sha256)
    if content is None:
        raise ApiProblem(404, "not-found", f"no server was told to fetch an agent {sha256}")
    return Response(
        content,
        media_type=PROGRAMS[name][1],
        headers={"ETag": f'"{digest_of(content)}"', "X-Content-Type-Options": "nosniff"},
    )
