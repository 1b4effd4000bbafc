"""``slipway demo``: the whole way on this computer, from a template to a server that is gone again.

Everything in it is what the other commands do, in the same order; nothing is simulated but the
machines, which are the local cloud's.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import httpx
from pydantic import SecretStr
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from slipway import audit
from slipway.cli import launching, operating, servers, watching
from slipway.cli.codes import ExitCode
from slipway.cli.giving import Given
from slipway.cli.output import seconds, stderr, stdout, waiting
from slipway.cli.session import Session, actor
from slipway.cli.wiring import Wiring
from slipway.clouds.local import LocalCloud
from slipway.clouds.local.faults import DEFAULT_IMAGE
from slipway.launches.requests import find_launch, list_launches
from slipway.lifecycle import subject_of
from slipway.records import Launch, LaunchStatus
from slipway.settings import Settings
from slipway.steps import steps_of

#: Where the demo works unless ``SLIPWAY_STATE_DIR`` says otherwise.
STATE_DIR = Path(".slipway") / "demo"

#: So many runners at once; each is a process that imports Prefect.
RUNNERS = 2


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong, and where in the record to read what became of it."""

    image: str
    what: str
    #: The step whose summary tells how the launch got over it.
    step: str


#: Images of the local cloud that come to an end, good or bad, within half a minute. Those left out
#: run into the launch's own deadlines, which are minutes.
FAULTS = (
    Fault(image=DEFAULT_IMAGE, what="nothing", step="wait-for-boot"),
    Fault(image="local-no-capacity-once", what="the cloud has no room", step="create-instance"),
    Fault(
        image="local-create-reply-lost",
        what="created, but the reply is lost",
        step="create-instance",
    ),
    Fault(image="local-listed-late", what="listed late", step="wait-for-running"),
    Fault(image="local-boot-fails", what="the kernel panics", step="wait-for-running"),
    Fault(image="local-reboots-thrice", what="three reboots at first", step="wait-for-boot"),
    Fault(image="local-login-late", what="our account appears late", step="wait-for-boot"),
    Fault(image="local-host-key-replaced", what="the host key is replaced", step="wait-for-boot"),
    Fault(
        image="local-cloud-init-degraded", what="cloud-init: degraded done", step="wait-for-boot"
    ),
    Fault(image="local-cloud-init-fatal", what="cloud-init: a script failed", step="wait-for-boot"),
    Fault(image="local-clock-slow", what="the clock is 32.6 s slow", step="pass-clock-gate"),
    Fault(image="local-ssh-drops", what="a connection breaks", step="run-script:10-work"),
)


def run(settings: Settings, wiring: Wiring, *, faults: bool, keep: bool) -> int:
    """Run the demo; answers the exit code."""
    if "SLIPWAY_STATE_DIR" not in os.environ:
        settings = Settings(state_dir=STATE_DIR.absolute(), templates_dir=settings.templates_dir)
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = settings.state_dir / "templates"
    _copy_templates(settings.templates_dir, scratch)
    found = Session(
        wiring,
        Settings(
            state_dir=settings.state_dir,
            database_url=settings.database_url,
            templates_dir=scratch,
        ),
    )
    tour = Tour(found, keep=keep)
    try:
        return tour.faults() if faults else tour.whole_way()
    except KeyboardInterrupt:
        stderr().print("\nStopped.")
        return ExitCode.INTERRUPTED
    finally:
        tour.close()


def export(state_dir: Path) -> str:
    """What lets the other commands of a shell work where the demo did."""
    return f"export SLIPWAY_STATE_DIR={shlex.quote(str(state_dir))}"


class Tour:
    """One run of the demo."""

    def __init__(self, found: Session, *, keep: bool) -> None:
        self.found = found
        self.keep = keep
        self.console = stdout()
        self.ui_url = ""
        self.clock = found.services.clock
        self._begun_at = self.clock.monotonic()
        self._took: list[tuple[str, float]] = []
        self._starting = ThreadPoolExecutor(1, "slipway-demo")

    # -- the tours ---------------------------------------------------------------------------------

    def whole_way(self) -> int:
        """From a template to a server that is gone again."""
        self._say("This demo needs no cloud account, no root and no containers.", "bold")
        self._say(f"It works in {self.found.settings.state_dir}.", "dim")
        ready = self._start()
        with self._part("A template has versions", "slipway template commit / diff"):
            self._versions()
        self._wait_for_engine(ready)
        first, second = _free_names(self.found, "hello", 2)
        token = SecretStr(secrets.token_urlsafe(24))
        with self._part(
            f"Launch {first} from hello-web", f"slipway launch hello-web --name {first}"
        ):
            if not self._launch("hello-web", first, {}, {"API_TOKEN": token}):
                return ExitCode.FAILED
        with self._part("Its page, fetched over HTTP", "what the scripts made of the inputs"):
            self._page(first)
        with self._part("Where the time went", f"slipway show {first}"):
            servers.timeline(self.found.services, self._current(first))
        with self._part("The record", f"slipway audit show {first} / slipway audit verify"):
            self._record(first, token)
        reference = f"{first}.outputs.url"
        title = f"Launch {second}, which is told where {first} is"
        with self._part(title, f"slipway launch hello-web --input UPSTREAM_HOST={reference}"):
            if not self._launch(
                "hello-web", second, {"UPSTREAM_HOST": reference}, {}, output=False
            ):
                return ExitCode.FAILED
            self._page(second, only="Upstream")
        if not self.keep:
            with self._part("Take both down", f"slipway decommission {first} {second}"):
                code = self._take_down([self._current(first), self._current(second)])
                if code is not ExitCode.FINE:
                    return code
        self._summary([first, second])
        return ExitCode.FINE

    def faults(self) -> int:
        """Servers on which things go wrong, side by side."""
        self._say(f"{len(FAULTS)} servers, each with something else that goes wrong.", "bold")
        self._say(f"It works in {self.found.settings.state_dir}.", "dim")
        ready = self._start()
        self._write_faulty_templates()
        self._wait_for_engine(ready)
        names = [
            _free_names(self.found, fault.image.removeprefix("local-"), 1)[0] for fault in FAULTS
        ]
        with self._part("Launch them all at once", "one flow run, one row each"):
            launches = self._launch_faulty(names)
        with self._part("What became of them", "from their audit records"):
            self._verdicts(launches)
        if not self.keep:
            with self._part("Take them all down", "slipway decommission"):
                self._take_down(launches)
        self._summary(names)
        return ExitCode.FINE

    # -- the beginning and the end -----------------------------------------------------------------

    def close(self) -> None:
        """Stop what was started, unless it is to be kept."""
        self._starting.shutdown()
        if self.keep:
            return
        with waiting("stopping the local cloud and Prefect"):
            cloud = LocalCloud(self.found.settings)
            cloud.down()
            self.found.server.down()

    def _start(self) -> Future[str]:
        """Start both servers; Prefect's takes a while, in which there is something to read."""
        begun_at = self.clock.monotonic()
        health = LocalCloud(self.found.settings).health()
        took = self.clock.monotonic() - begun_at
        self._say(f"\n✔ the local cloud runs ({seconds(took)})", "green")
        self._say(f"  {health.confinement}", "dim")
        self._say("… Prefect starts in the background", "dim")
        return self._starting.submit(self.found.engine.ready)

    def _wait_for_engine(self, ready: Future[str]) -> None:
        begun_at = self.clock.monotonic()
        with waiting("Prefect is starting; on a new database it has tables to make"):
            self.ui_url = ready.result()
        took = self.clock.monotonic() - begun_at
        self._took.append(("waiting for Prefect", took))
        self._say(f"\n✔ Prefect is up: {self.ui_url} (another {seconds(took)})", "green")

    def _summary(self, names: Sequence[str]) -> None:
        total = self.clock.monotonic() - self._begun_at
        self.console.print()
        self._heading("Done", "")
        grid = Table.grid(padding=(0, 2))
        for title, took in self._took:
            grid.add_row(f"  {title}", Text(seconds(took), justify="right"))
        grid.add_row("  all in all", Text(seconds(total), style="bold"))
        self.console.print(grid)
        setting = export(self.found.settings.state_dir)
        if self.keep:
            self._say(f"\nStill running. Prefect: {self.ui_url}")
            for name in names:
                launch = self._current(name)
                if url := launch.outputs.get("url"):
                    self._say(f"  {name}: {url}")
            self._say("To look around, and to stop everything:", "bold")
            self._say(f"  {setting}")
            self._say(f"  slipway show {names[0]}; slipway ssh {names[0]}")
            self._say(f"  slipway decommission {' '.join(names)} --yes")
            self._say("  slipway local down; slipway engine down")
            return
        self._say("\nThe servers are gone, their records stay:", "bold")
        self._say(f"  {setting}")
        self._say(f"  slipway show {names[0]}; slipway audit show {names[0]}")
        self._say("  slipway engine up        the flow runs in Prefect's UI")
        self._say("Next: slipway demo --faults, or slipway demo --keep to look around.")

    # -- parts -------------------------------------------------------------------------------------

    def _versions(self) -> None:
        store = self.found.services.templates
        first = store.commit("hello-web", "As it is shipped", actor()).version
        _edit(store.templates_dir / "hello-web")
        second = store.commit("hello-web", "A friendlier greeting", actor()).version
        told = (
            f"{first.ref} is {first.hash[:12]}; an edit later {second.ref} is {second.hash[:12]}."
        )
        self._say(f"{told} What changed:")
        found = store.diff(f"hello-web@{first.hash}", f"hello-web@{second.hash}")
        for change in found.fields:
            self._say(f"  {change.path}")
            if change.before is not None:
                self._say(f"    - {change.before}", "red")
            if change.after is not None:
                self._say(f"    + {change.after}", "green")
        for script in found.scripts:
            self.console.print(Syntax(script.diff, "diff", background_color="default"))

    def _launch(
        self,
        template: str,
        name: str,
        inputs: Mapping[str, str],
        given: Mapping[str, SecretStr],
        *,
        output: bool = True,
    ) -> bool:
        services = self.found.services
        fields = _fields(template, inputs)
        values = Given(plain=dict(inputs), secrets=dict(given))
        launches = launching.record(services, launching.plan(services, fields, [name], values, {}))
        submission = launching.submit(self.found, launches, fields)
        watched = watching.watch(
            services, launches[0], submission, console=self.console, output=output
        )
        code = watching.ended(
            watched, submission=submission, ui_url=self.ui_url, console=self.console
        )
        return code is ExitCode.FINE

    def _page(self, name: str, *, only: str | None = None) -> None:
        url = str(self._current(name).outputs["url"])
        answer = httpx.get(url, timeout=10, trust_env=False)
        page = _Page()
        page.feed(answer.text)
        self._say(f"GET {url}: {answer.status_code}, “{page.title}”")
        for heading, rows, text in page.sections:
            if only not in (None, heading):
                continue
            self._say(f"  {heading}", "bold")
            grid = Table.grid(padding=(0, 2))
            for label, value in rows:
                grid.add_row(Text(f"    {label}", style="dim"), Text(value))
            if rows:
                self.console.print(grid)
            if text:
                self._say(f"    {text}")

    def _record(self, name: str, token: SecretStr) -> None:
        services, launch = self.found.services, self._current(name)
        subject = subject_of(launch.id)
        entries = audit.entries(services.database, subject)
        shown = [entry for entry in entries if entry.kind == "status"]
        for entry in shown:
            at = entry.at.astimezone().strftime("%H:%M:%S")
            self._say(f"  {entry.seq:>3}  {at}  {entry.summary}", "dim")
        held = audit.verify(services.database, subject)
        self._say(
            f"✔ {held.entries} entries, of which {len(shown)} are shown; their hash chain holds, "
            f"head {held.head[:12]}",
            "green",
        )
        secret = token.get_secret_value()
        seen = sum(secret in str(audit.as_json(entry)) for entry in entries)
        seen += sum(secret.encode() in (entry.data or b"") for entry in entries)
        sign, style = ("✔", "green") if seen == 0 else ("✘", "bold red")
        self._say(f"{sign} the secret input API_TOKEN appears in {seen} of them", style)

    def _take_down(self, launches: Sequence[Launch]) -> ExitCode:
        code = ExitCode.FINE
        for start in range(0, len(launches), RUNNERS):
            batch = list(launches[start : start + RUNNERS])
            code = max(code, operating.take_down(self.found, batch))
        return code

    def _write_faulty_templates(self) -> None:
        """A template and an image map per faulty image: the image is all that is different."""
        directory = self.found.services.templates.templates_dir
        for fault in FAULTS:
            name = fault.image.removeprefix("local-")
            image = directory / "images" / f"faulty-{name}.yaml"
            entry = f"{{image: {fault.image}, instance_type: local.small, user: admin}}"
            image.write_text(
                f"schema: slipway-image-map/1\nname: faulty-{name}\n"
                f"description: {json.dumps('What goes wrong: ' + fault.what)}\n"
                f'entries:\n  local:\n    "*":\n      x86_64: {entry}\n      arm64: {entry}\n'
            )
            home = directory / f"faulty-{name}"
            (home / "scripts").mkdir(parents=True, exist_ok=True)
            (home / "template.yaml").write_text(
                f"schema: slipway/1\nname: faulty-{name}\n"
                f"description: {json.dumps('What goes wrong: ' + fault.what)}\n"
                f"image: faulty-{name}\nboot: [scripts/work.sh]\n"
            )
            (home / "scripts" / "work.sh").write_text(_WORK)

    def _launch_faulty(self, names: Sequence[str]) -> list[Launch]:
        services = self.found.services
        plans = []
        for fault, name in zip(FAULTS, names, strict=True):
            template = f"faulty-{fault.image.removeprefix('local-')}"
            plans += launching.plan(services, _fields(template, {}), [name], Given(), {})
        recorded = launching.record(services, plans)
        requests = [
            launching.request_of(launch, _fields(launch.template_ref, {})).model_dump(mode="json")
            for launch in recorded
        ]
        submission = self.found.engine.submit("launch_servers", {"requests": requests})
        runs = {launch.id: submission for launch in recorded}
        watched = watching.watch_many(services, recorded, runs, console=self.console)
        return [each.launch for each in watched]

    def _verdicts(self, launches: Sequence[Launch]) -> None:
        services = self.found.services
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for title in ("FAULT", "OUTCOME", "TIME", "WHY"):
            table.add_column(title, overflow="fold")
        survived = 0
        for fault, launch in zip(FAULTS, launches, strict=True):
            good = launch.status == LaunchStatus.OPERATIONAL
            survived += good
            end = launch.operational_at or launch.updated_at
            table.add_row(
                fault.what,
                Text("✔ survived" if good else f"✘ {launch.status}", "green" if good else "red"),
                seconds((end - launch.created_at).total_seconds()),
                Text(_summary_of(self.found, launch, fault.step) if good else launch.reason),
            )
        self.console.print(table)
        held = [
            audit.verify(services.database, subject_of(launch.id)).entries for launch in launches
        ]
        self._say(
            f"✔ {survived} of {len(launches)} came up; each of the others says which step and why. "
            f"{sum(held)} audit entries, all chains hold.",
            "green",
        )

    # -- helpers -----------------------------------------------------------------------------------

    def _current(self, name: str) -> Launch:
        return find_launch(self.found.services, name)

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style))

    def _heading(self, title: str, hint: str) -> None:
        self.console.print(Text.assemble(("── ", "cyan"), (title, "bold"), (f"   {hint}", "dim")))

    @contextlib.contextmanager
    def _part(self, title: str, hint: str) -> Iterator[None]:
        self.console.print()
        self._heading(title, hint)
        begun_at = self.clock.monotonic()
        yield
        self._took.append((title, self.clock.monotonic() - begun_at))


class _Page(HTMLParser):
    """What a person reads on hello-web's page: title, and per section a table or a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.sections: list[tuple[str, list[tuple[str, str]], str]] = []
        self._text: list[str] = []
        self._label = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs  # the page needs none to be read
        if tag in ("title", "h2", "th", "td", "p"):
            self._text = []

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        text = " ".join("".join(self._text).split())
        if tag == "title":
            self.title = text
        elif tag == "h2":
            self.sections.append((text, [], ""))
        elif tag == "th":
            self._label = text
        elif tag == "td" and self.sections:
            self.sections[-1][1].append((self._label, text))
        elif tag == "p" and self.sections:
            heading, rows, _ = self.sections[-1]
            self.sections[-1] = (heading, rows, text)


#: Long enough that a connection can break in the middle; safe to run again, and it says so.
_WORK = """\
#!/usr/bin/env bash
# ---
# name: Some work
# description: Counts to five and says when it is done.
# inputs: {}
# timeout: 60
# retry_safe: true
# ...
set -euo pipefail

for number in 1 2 3 4 5; do
  echo "working: $number of 5"
  sleep 0.1
done
"""


def _copy_templates(source: Path, target: Path) -> None:
    """Working copies of the demo's own: editing them changes nobody's templates."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def _edit(directory: Path) -> None:
    """What somebody would change: a default, and a line in a script."""
    template = directory / "template.yaml"
    text = template.read_text()
    added = "inputs:\n  GREETING: {default: Good morning}\n"
    template.write_text(text.replace("boot:\n", f"{added}boot:\n", 1))
    script = directory / "scripts" / "configure.sh"
    text = script.read_text()
    script.write_text(text.replace("umask 022\n", 'umask 022\necho "greeting: $GREETING"\n', 1))


def _fields(template: str, inputs: Mapping[str, str]) -> dict[str, object]:
    return {"template": template, "inputs": dict(inputs)}


def _free_names(found: Session, base: str, count: int) -> list[str]:
    """The next free numbers: an earlier demo's servers may have been kept."""
    taken = {launch.server_name for launch in list_launches(found.services)}
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        if (name := f"{base}-{number}") not in taken:
            names.append(name)
    return names


def _summary_of(found: Session, launch: Launch, step: str) -> str:
    """The sentence in which a step that succeeded says how."""
    services = found.services
    subject = subject_of(launch.id)
    attempts = {each.key: each.attempt for each in steps_of(services.database, subject)}
    told = [
        entry.summary
        for entry in audit.entries(services.database, subject)
        if entry.step == step and entry.kind in ("info", "error")
    ]
    sentence = told[-1] if told else ""
    waited = [each for each in told[:-1] if each.startswith("waiting for")]
    if attempts.get(step, 1) > 1:
        sentence += f" (attempt {attempts[step]})"
    return sentence + (" (after an outage)" if waited else "")
