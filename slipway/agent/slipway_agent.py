"""The Slipway agent: calls Slipway, does what it is told, and tells what came of it.

One file, Python's standard library only, Python 3.6 or newer: it has to run on whatever server it
finds itself on. It was put here, and is kept running, by the server's user data.

What it is told are command lines for the shell, the same ones that Slipway sends over SSH where it
can reach a server; scripts among them run under a wrapper that keeps its own record and needs
nobody to watch it. So this program remembers little: who it is, and the number of the instruction
it began last, which is on the disk before the instruction begins. Whatever happens, no instruction
begins twice, and a script goes on without us: when this program ends, when Slipway cannot be
reached, when the network is gone.

Files, in /var/lib/slipway/agent (0700):

config.json    where Slipway is, which launch this is; until the first call also the one-time token
secret         what we call with; made here, and nobody else has it
secret.next    another one, while it takes the place of the first
state.json     the instance we belong to, and the number of the last instruction begun
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import pwd
import random
import secrets
import selectors
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.parse
from typing import IO, Any, Callable, Dict, List, Optional, Tuple

VERSION = 1

#: How long Slipway may keep a question for something to do open.
POLL_S = 25.0
#: Longer than that: the connection is dead, or Slipway is.
ANSWER_S = 45.0
#: Between two tries while Slipway cannot be reached: from the first to the longest, doubling.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
#: After a "no": somebody has to do something before it can become a "yes".
REFUSED_PAUSE_S = 60.0
#: A command that says nothing is reported so often all the same.
HEARTBEAT_S = 5.0
#: Output is reported when this much has come together, or when it has waited this long.
PIECE_BYTES = 64 * 1024
FLUSH_S = 0.5
#: Between asking a command to end and ending it.
GRACE_S = 2.0


class Refused(Exception):
    """Slipway answered with an error."""

    def __init__(self, status: int, problem: Dict[str, Any]) -> None:
        super().__init__(f"{status}: {problem.get('detail') or problem.get('title') or ''}")
        self.status = status
        self.problem = problem


class Over(Exception):
    """We are not needed any more."""


class Clock:
    """Time, so that tests can bring their own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def log(text: str) -> None:
    """One line for the journal, or the file that stands in for it. Never with a secret in it."""
    sys.stderr.write("slipway-agent: " + text + "\n")
    sys.stderr.flush()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- files -----------------------------------------------------------------------------------------


class Folder:
    """Our files. What is written is on the disk, whole, before we go on."""

    def __init__(self, root: str) -> None:
        #: "" on a server; the machine's own directory on a stand-in machine.
        self.root = root
        self.path = root + "/var/lib/slipway/agent"

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def read(self, name: str) -> Optional[str]:
        try:
            with open(self.file(name)) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        draft = self.file(name + ".draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.rename(name + ".draft", name)

    def rename(self, old: str, new: str) -> None:
        os.rename(self.file(old), self.file(new))
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.file(name))

    def json(self, name: str) -> Dict[str, Any]:
        text = self.read(name)
        found = json.loads(text) if text else {}
        return found if isinstance(found, dict) else {}


# -- what this server is ---------------------------------------------------------------------------


def first_line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def instance_id(root: str) -> str:
    """What the cloud calls this instance: cloud-init has written it down, else EC2's metadata."""
    found = first_line(root + "/var/lib/cloud/data/instance-id")
    return found or ("" if root else ec2_instance_id())


def ec2_instance_id() -> str:
    """From the metadata service, by the way that needs a session (IMDSv2); "" elsewhere."""
    connection = http.client.HTTPConnection("169.254.169.254", timeout=2)
    try:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        connection.request("PUT", "/latest/api/token", headers=headers)
        answer = connection.getresponse()
        session = answer.read(4096).decode("ascii", "replace")
        if answer.status != 200:
            return ""
        headers = {"X-aws-ec2-metadata-token": session}
        connection.request("GET", "/latest/meta-data/instance-id", headers=headers)
        answer = connection.getresponse()
        text = answer.read(256).decode("ascii", "replace").strip()
        return text if answer.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def boot_id(root: str) -> str:
    return first_line(root + "/proc/sys/kernel/random/boot_id")


def address_towards(host: str, port: int) -> str:
    """Our own address on the way there; nothing is sent."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, 0, socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


# -- Slipway, from here ----------------------------------------------------------------------------


class Api:
    """One connection to Slipway, opened anew when it breaks. Every call may be made twice."""

    def __init__(self, url: str, ca: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host = parts.hostname or ""
        if parts.scheme == "http" and not is_loopback(self.host):
            raise ValueError(url + " is not encrypted: only https, or http to this very computer")
        if parts.scheme not in ("http", "https") or not self.host:
            raise ValueError(url + " is not an address of Slipway")
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._base = parts.path.rstrip("/") + "/agent/v1/"
        self._context = None  # type: Optional[ssl.SSLContext]
        if parts.scheme == "https":
            # Verifies certificate and host name; without an authority of its own, the system's.
            self._context = ssl.create_default_context(cadata=ca or None)
        self._connection = None  # type: Optional[http.client.HTTPConnection]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def call(self, path: str, body: Dict[str, Any], headers: Dict[str, str]) -> Dict[str, Any]:
        """Post JSON, get JSON. Raises OSError or HTTPException when there is no answer, `Refused`
        when there is one that says no."""
        data = json.dumps(body).encode()
        headers = dict(headers)
        headers["Content-Type"] = "application/json"
        used = self._connection is not None
        try:
            status, text = self._send(path, data, headers)
        except (http.client.HTTPException, OSError):
            self.close()
            if not used:
                raise
            # The other side closes a connection that was idle; that is only seen now.
            status, text = self._send(path, data, headers)
        try:
            answer = json.loads(text.decode()) if text else {}
        except ValueError:
            answer = {}
        if not isinstance(answer, dict):
            answer = {}
        if status >= 300:
            raise Refused(status, answer)
        return answer

    def _send(self, path: str, data: bytes, headers: Dict[str, str]) -> Tuple[int, bytes]:
        if self._connection is None:
            if self._context is not None:
                self._connection = http.client.HTTPSConnection(
                    self.host, self.port, timeout=ANSWER_S, context=self._context
                )
            else:
                self._connection = http.client.HTTPConnection(
                    self.host, self.port, timeout=ANSWER_S
                )
            self._connection.connect()
            # Small messages at once: the clock is measured over this connection.
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._connection.request("POST", self._base + path, body=data, headers=headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            self.close()
            raise


class Patience:
    """How long to wait before the next try: longer each time, and never in step with others."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._next_s = FIRST_PAUSE_S

    def pause_s(self) -> float:
        found = self._next_s * (0.5 + self._chance() / 2)
        self._next_s = min(self._next_s * 2, LONGEST_PAUSE_S)
        return found

    def reset(self) -> None:
        self._next_s = FIRST_PAUSE_S


# -- the agent -------------------------------------------------------------------------------------


class Agent:
    """Calls Slipway until it is told to leave."""

    def __init__(
        self,
        folder: Folder,
        api: Any = None,
        clock: Any = None,
        chance: Callable[[], float] = random.random,
        poll_s: float = POLL_S,
    ) -> None:
        self._folder = folder
        self._config = folder.json("config.json")
        self._clock = clock or Clock()
        self._patience = Patience(chance)
        self._poll_s = poll_s
        self._api = api or Api(self._config["api"], self._config.get("ca", ""))
        self._state = folder.json("state.json")
        self._instance = instance_id(folder.root)
        self._boot = boot_id(folder.root)
        self._secret = folder.read("secret") or ""

    # -- calls -----------------------------------------------------------------------------------

    def _headers(self) -> Dict[str, str]:
        who = f"{self._config['launch']}.{self._config['generation']}"
        return {
            "Authorization": f"Bearer {who}.{self._secret}",
            "Slipway-Instance": self._instance,
            "Slipway-Boot": self._boot,
            "User-Agent": f"slipway-agent/{VERSION}",
        }

    def _call(self, path: str, body: Dict[str, Any]) -> Dict[str, Any]:
        """One try. Raises `Over` when we are not needed any more."""
        try:
            answer = self._api.call(path, body, self._headers())
        except Refused as refused:
            if refused.status == 410:
                raise Over(str(refused)) from None
            raise
        self._patience.reset()
        return dict(answer)

    def _insist(self, path: str, body: Dict[str, Any]) -> Dict[str, Any]:
        """Try until there is an answer, for as long as it takes. Raises `Refused` for an answer
        that will be the same next time, and `Over`."""
        while True:
            try:
                return self._call(path, body)
            except Refused as refused:
                if refused.status < 500 and refused.status != 429:
                    raise
                trouble = str(refused)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{type(error).__name__}: {error}"
            pause_s = self._patience.pause_s()
            log(f"no answer to {path} ({trouble}); next try in {pause_s:.1f} s")
            self._clock.sleep(pause_s)

    # -- who we are ------------------------------------------------------------------------------

    def introduce(self) -> None:
        """Make a secret, and exchange the token for it; or go on with the one we have."""
        if self._state.get("instance", self._instance) != self._instance:
            # The disk of another server, copied: its secret is not ours to use.
            log(f"these files belong to instance {self._state['instance']}, this is another")
            raise SystemExit(0)
        if not self._secret:
            self._secret = secrets.token_urlsafe(32)
            self._folder.write("secret", self._secret)
        token = self._config.get("token", "")
        while token:
            body = {
                "token": token,
                "secret_sha256": digest(self._secret),
                "instance_id": self._instance,
                "facts": self._facts(),
            }
            try:
                self._insist("hello", body)
                token = ""
            except Refused as refused:
                log(f"Slipway does not accept us ({refused}); trying again")
                self._clock.sleep(REFUSED_PAUSE_S)
        self._remember(instance=self._instance)
        if "token" in self._config:
            del self._config["token"]
            self._folder.write("config.json", json.dumps(self._config))
        if self._folder.read("secret.next"):
            self._change_secret()

    def _facts(self) -> Dict[str, Any]:
        release = {}
        try:
            with open(self._folder.root + "/etc/os-release") as file:
                pairs = [line.strip().partition("=") for line in file]
            release = {key: value.strip("\"'") for key, _, value in pairs}
        except (OSError, UnicodeDecodeError):
            pass
        return {
            "boot_id": self._boot,
            "host_name": socket.gethostname(),
            "address": address_towards(
                getattr(self._api, "host", ""), getattr(self._api, "port", 443)
            ),
            "system": release.get("PRETTY_NAME", sys.platform),
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "agent": VERSION,
        }

    def _change_secret(self) -> None:
        """Go on with a new secret. Ended half-way, it is done again with the same two; refused, the
        old one stays for as long as it lasts."""
        new = self._folder.read("secret.next")
        if not new:
            new = secrets.token_urlsafe(32)
            self._folder.write("secret.next", new)
        try:
            self._insist("secret", {"secret_sha256": digest(new)})
        except Refused as refused:
            log(f"the secret could not be changed ({refused})")
            self._clock.sleep(REFUSED_PAUSE_S)
            return
        self._folder.rename("secret.next", "secret")
        self._secret = new

    def _remember(self, **values: Any) -> None:
        if any(self._state.get(name) != value for name, value in values.items()):
            self._state.update(values)
            self._folder.write("state.json", json.dumps(self._state))

    # -- the work --------------------------------------------------------------------------------

    def serve(self) -> None:
        """Do one instruction after the other. Returns when told to leave; raises `Over`."""
        self.introduce()
        log(f"at work for launch {self._config['launch']}")
        if self._state.get("open"):
            # We died in the middle of it, and do not know how far it came.
            self._end(self._state["begun"], {"lost": True})
        while self.step():
            pass

    def step(self) -> bool:
        """Ask for an instruction and do it; answers whether there may be more."""
        asked = {"after": self._state.get("begun", 0), "wait_s": self._poll_s}
        try:
            answer = self._insist("next", asked)
        except Refused as refused:
            log(f"Slipway does not accept us ({refused}); trying again")
            self._clock.sleep(REFUSED_PAUSE_S)
            return True
        todo = answer.get("instruction")
        if todo is not None:
            self._remember(begun=todo["seq"], open=True)
            if todo["kind"] == "leave":
                self._end(todo["seq"], {"exit_code": 0})
                return False
            self._do(todo)
        elif answer.get("renew"):
            self._change_secret()
        return True

    def _do(self, todo: Dict[str, Any]) -> None:
        if todo["kind"] == "run":
            Running(self, todo).follow()
        elif todo["kind"] == "time":
            self._end(todo["seq"], self._time(todo))
        else:
            self._end(todo["seq"], {"unknown": True})

    def report(self, seq: int, body: Dict[str, Any]) -> Dict[str, Any]:
        """One try."""
        return self._call(f"instructions/{seq}/report", body)

    def ended(self) -> None:
        """The instruction is off our hands. Not worth a write of its own: the next will tell."""
        self._state["open"] = False

    def _end(self, seq: int, result: Dict[str, Any]) -> None:
        try:
            self._insist(f"instructions/{seq}/report", {"ended": result})
        except Refused as refused:
            log(f"instruction {seq} was not wanted any more ({refused})")
        self.ended()

    def _time(self, todo: Dict[str, Any]) -> Dict[str, Any]:
        """Let Slipway time round trips to a command that answers one line with one line. It times
        from its answer to one call to our next call, so each call carries the answer to the one
        before."""
        deadline = self._clock.monotonic() + todo["timeout_s"]
        process = start(todo["command"], self._folder.root)
        trips = []  # type: List[Dict[str, Any]]
        answer, mark = "", None  # type: str, Optional[str]
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while self._clock.monotonic() < deadline:
                said = self._call("clock", {"mark": mark})
                # The first call has no mark to come back to: it opens the connection.
                if said.get("trip") is not None:
                    trips.append(dict(said["trip"], answer=answer))
                    if len(trips) == todo["count"]:
                        return {"trips": trips}
                mark = said["mark"]
                process.stdin.write(todo["line"].encode() + b"\n")
                answer = read_line(process.stdout, deadline - self._clock.monotonic())
                if not answer:
                    break
            return {"timed_out": True}
        except (Refused, OSError, http.client.HTTPException) as error:
            log(f"the clock could not be measured: {error}")
            return {"lost": True}
        finally:
            kill(process, 0.0)


def read_line(pipe: IO[bytes], timeout_s: float) -> str:
    """The next line, or "" when none comes in time. The pipe is not buffered."""
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        end = time.monotonic() + timeout_s
        while not found.endswith(b"\n"):
            if not selector.select(max(0.0, end - time.monotonic())):
                return ""
            data = os.read(pipe.fileno(), 1)
            if not data:
                return ""
            found += data
    return found.decode("utf-8", "replace").strip()


def environment(root: str) -> Dict[str, str]:
    """What a login would have set, for commands that were written for one."""
    account = pwd.getpwuid(os.getuid())
    found = {
        "HOME": account.pw_dir,
        "LOGNAME": account.pw_name,
        "USER": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    found.update(os.environ)
    if not root:
        # What a service manager sets for its own ends, and a private PATH would hide programs.
        for name in list(found):
            if name.startswith(("INVOCATION_", "JOURNAL_", "SYSTEMD_")) or name == "NOTIFY_SOCKET":
                del found[name]
    return found


def start(command: str, root: str) -> "subprocess.Popen[bytes]":
    """A command line in a session of its own, so that all of it can be ended."""
    variables = environment(root)
    home = variables["HOME"]
    return subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=home if os.path.isdir(home) else "/",
        env=variables,
        start_new_session=True,
    )


def kill(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """End a command and what it has started in its session; one that has ended is left alone."""
    if process.returncode is None:
        # Nobody has collected it yet, so its number, and its group's, still belong to it.
        signal_group(process.pid, signal.SIGTERM)
        end = time.monotonic() + grace_s
        while not has_ended(process.pid) and time.monotonic() < end:
            time.sleep(0.02)
        signal_group(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def has_ended(pid: int) -> bool:
    """Without collecting it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Running:
    """One command, and what it prints on its way to Slipway.

    What Slipway has not taken yet is kept here, and no more is read than `PIECE_BYTES` of each
    stream: while Slipway cannot be reached the command waits, as it would for any slow reader.
    (A script does not wait: its wrapper keeps what it prints on the disk.)
    """

    def __init__(self, agent: Agent, todo: Dict[str, Any]) -> None:
        self._agent = agent
        self._clock = agent._clock
        self._seq = todo["seq"]
        self._ends_at = self._clock.monotonic() + todo["timeout_s"]
        self._input = memoryview(base64.b64decode(todo.get("stdin", "")))
        self._process = start(todo["command"], agent._folder.root)
        self._pipes = {"out": self._process.stdout, "err": self._process.stderr}
        self._open = {"out": True, "err": True}
        self._buffers = {"out": b"", "err": b""}
        #: How much of each stream Slipway has.
        self._taken = {"out": 0, "err": 0}
        self._selector = selectors.DefaultSelector()
        for name in ("out", "err"):
            os.set_blocking(self._pipe(name).fileno(), False)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        if not self._input:
            self._process.stdin.close()
        self._result = None  # type: Optional[Dict[str, Any]]
        self._next_try = 0.0
        self._reported_at = self._clock.monotonic() - HEARTBEAT_S + FLUSH_S
        self._oldest = None  # type: Optional[float]

    def _pipe(self, name: str) -> IO[bytes]:
        pipe = self._pipes[name]
        assert pipe is not None
        return pipe

    def follow(self) -> None:
        """To the end of the command, and until Slipway knows how it ended or does not want to."""
        try:
            while True:
                self._carry()
                now = self._clock.monotonic()
                if self._result is None:
                    self._look_for_the_end(now)
                if now >= self._due_at(now) and not self._report():
                    return
        finally:
            kill(self._process, GRACE_S)
            self._selector.close()
            self._agent.ended()

    # -- the command -----------------------------------------------------------------------------

    def _carry(self) -> None:
        """Bytes to and from the command, until there is something to report."""
        wanted = []
        if self._result is None:
            stdin = self._process.stdin
            if stdin is not None and not stdin.closed:
                wanted.append((stdin, selectors.EVENT_WRITE, "in"))
            wanted += [
                (self._pipe(name), selectors.EVENT_READ, name)
                for name in ("out", "err")
                if self._open[name] and len(self._buffers[name]) < PIECE_BYTES
            ]
        now = self._clock.monotonic()
        pause_s = self._pause_s(now)
        if not wanted:
            self._wait(pause_s)
            return
        for pipe, event, name in wanted:
            self._selector.register(pipe, event, name)
        try:
            ready = self._selector.select(pause_s)
        finally:
            for pipe, _, _ in wanted:
                self._selector.unregister(pipe)
        for key, _ in ready:
            if key.data == "in":
                self._write()
            else:
                self._read(key.data, now)

    def _wait(self, pause_s: float) -> None:
        """There is nothing to carry: for the process to end, or for the next try."""
        if self._result is None and not any(self._open.values()):
            # Its streams are closed and it is still there. The pause is the process's own, not the
            # clock's: it is over when the process is.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(pause_s)
        else:
            self._clock.sleep(pause_s)

    def _pause_s(self, now: float) -> float:
        """Until the next thing that does not come through a pipe."""
        until = self._due_at(now)
        if self._result is None:
            until = min(until, self._ends_at)
        return max(0.0, until - now)

    def _write(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            sent = os.write(stdin.fileno(), self._input[:PIECE_BYTES])
            self._input = self._input[sent:]
        except BlockingIOError:
            return
        except OSError:
            # It does not read its input; its exit code says what that means.
            self._input = memoryview(b"")
        if not self._input:
            stdin.close()

    def _read(self, name: str, now: float) -> None:
        try:
            data = os.read(self._pipe(name).fileno(), PIECE_BYTES - len(self._buffers[name]))
        except BlockingIOError:
            return
        if not data:
            self._open[name] = False
            return
        self._buffers[name] += data
        if self._oldest is None:
            self._oldest = now

    def _look_for_the_end(self, now: float) -> None:
        # Whatever it has started in the background and left our pipes to is waited for, as by SSH.
        if not any(self._open.values()) and self._process.poll() is not None:
            code = self._process.returncode
            self._result = {"exit_code": code if code >= 0 else -1}
        elif now >= self._ends_at:
            kill(self._process, GRACE_S)
            self._result = {"timed_out": True}

    # -- Slipway ---------------------------------------------------------------------------------

    def _due_at(self, now: float) -> float:
        """When there is something to report."""
        full = any(len(self._buffers[name]) >= PIECE_BYTES for name in self._buffers)
        if self._result is not None or full:
            due = now
        else:
            due = self._reported_at + HEARTBEAT_S
            if self._oldest is not None:
                due = min(due, self._oldest + FLUSH_S)
        return max(due, self._next_try)

    def _report(self) -> bool:
        """One try; answers whether there is more to come."""
        body = {
            name: {
                "offset": self._taken[name],
                "data": base64.b64encode(self._buffers[name]).decode(),
            }
            for name in self._buffers
        }  # type: Dict[str, Any]
        if self._result is not None:
            body["ended"] = self._result
        try:
            said = self._agent.report(self._seq, body)
        except Refused as refused:
            if refused.status < 500 and refused.status != 429:
                # What was taken before is not there any more, or we are not known: nothing that
                # we have can be of use.
                log(f"instruction {self._seq}: {refused}")
                self._agent._end(self._seq, {"lost": True})
                return False
            self._try_later(str(refused))
            return True
        except (OSError, http.client.HTTPException) as error:
            self._try_later(f"{type(error).__name__}: {error}")
            return True
        self._reported_at = self._clock.monotonic()
        self._oldest = None
        if not said["wanted"]:
            return False
        for name in self._buffers:
            taken = said["expected"][name] - self._taken[name]
            self._buffers[name] = self._buffers[name][taken:]
            self._taken[name] = said["expected"][name]
        if said.get("full"):
            # Whoever reads it is slow.
            self._next_try = self._reported_at + FLUSH_S
            return True
        return self._result is None or any(self._buffers.values())

    def _try_later(self, trouble: str) -> None:
        pause_s = self._agent._patience.pause_s()
        log(f"no answer ({trouble}); next try in {pause_s:.1f} s")
        self._next_try = self._clock.monotonic() + pause_s


# -- being there at every boot ---------------------------------------------------------------------

UNIT = """\
[Unit]
Description=Slipway agent
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={python} {program} run
Restart=on-failure
RestartSec=2
# Scripts that run now go on when the agent ends, is restarted or changed.
KillMode=process
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
"""

#: Where there is no systemd: cloud-init runs this at every boot.
PER_BOOT = """\
#!/bin/sh
# Starts the Slipway agent, and again whenever it is killed.
trap '' HUP
(
  until {python} {program} run; do sleep 2; done
) </dev/null >>{log} 2>&1 &
"""

UNIT_PATH = "/etc/systemd/system/slipway-agent.service"
PER_BOOT_PATH = "/var/lib/cloud/scripts/per-boot/slipway-agent"
LOG_PATH = "/var/log/slipway-agent.log"


def has_systemd(root: str) -> bool:
    return os.path.isdir(root + "/run/systemd/system")


def install(folder: Folder) -> None:
    """Take the configuration that user data has left, start, and see to it that we are started at
    every boot."""
    fresh = folder.json("config.new")
    known = folder.json("config.json")
    same = all(known.get(key) == fresh.get(key) for key in ("launch", "generation"))
    if not (same and folder.json("state.json").get("instance") == instance_id(folder.root)):
        # Another launch, or the copied disk of another server: nothing of it is ours.
        for name in ("secret", "secret.next", "state.json"):
            folder.remove(name)
        folder.write("config.json", json.dumps(fresh))
    folder.remove("config.new")
    program = folder.file("slipway_agent.py")
    if has_systemd(folder.root):
        with open(folder.root + UNIT_PATH, "w") as file:
            file.write(UNIT.format(python=sys.executable, program=program))
        systemctl("daemon-reload")
        systemctl("enable", "slipway-agent.service")
        # Not waited for: we are part of the boot that it waits for.
        systemctl("restart", "--no-block", "slipway-agent.service")
        return
    path = folder.root + PER_BOOT_PATH
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.makedirs(folder.root + os.path.dirname(LOG_PATH), exist_ok=True)
    with open(path, "w") as file:
        quoted = {
            "python": quote(sys.executable),
            "program": quote(program),
            "log": quote(folder.root + LOG_PATH),
        }
        file.write(PER_BOOT.format(**quoted))
    os.chmod(path, stat.S_IRWXU)
    subprocess.check_call([path], stdin=subprocess.DEVNULL)


def quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def systemctl(*arguments: str) -> None:
    subprocess.check_call(("systemctl", *arguments), stdin=subprocess.DEVNULL)


def remove(folder: Folder) -> None:
    """Leave nothing of us: not started any more, and nothing to call with."""
    if has_systemd(folder.root):
        subprocess.call(("systemctl", "disable", "slipway-agent.service"), stdin=subprocess.DEVNULL)
    for path in (UNIT_PATH, PER_BOOT_PATH):
        with contextlib.suppress(FileNotFoundError):
            os.remove(folder.root + path)
    shutil.rmtree(folder.path, ignore_errors=True)
    log("left this server")


def main(arguments: List[str]) -> int:
    # What commands find, as after a login; our own files say for themselves whom they are for.
    os.umask(0o022)
    folder = Folder(os.environ.get("SLIPWAY_ROOT", ""))
    if arguments == ["install"]:
        install(folder)
        return 0
    if arguments != ["run"]:
        sys.stderr.write("usage: slipway_agent.py install | run\n")
        return 2
    # An ordinary end, so that the pipes of a command are not left to chance.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        Agent(folder).serve()
    except Over as over:
        log(str(over))
    remove(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
