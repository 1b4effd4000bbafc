"""The supervisor: started once, found again, survived, ended."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from slipway.clouds.base import InstanceSpec, InstanceState
from slipway.clouds.local import Faults, LocalCloud, wire
from slipway.clouds.local.confinement import Unconfined
from slipway.clouds.local.host import TERMINATED_LISTED, Host
from slipway.clouds.local.reaper import MARK, Reaper
from slipway.errors import CloudUnavailable, NotFound
from slipway.testing.cloud_contract import until
from tests.clouds.conftest import machine_processes
from tests.clouds.shell import DEADLINE_S, KEY, local_case
from tests.clouds.test_local_machines import BOOT_ID, reconnect

NewCloud = Callable[[], LocalCloud]


def supervisor_pid(cloud: LocalCloud) -> int:
    return int(json.loads((cloud.directory / "supervisor.json").read_text())["pid"])


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until_ended(*processes: psutil.Process) -> None:
    """Until all have ended, collected by their parent or not."""
    until(
        lambda: not any(lives(each) for each in processes),
        what="all have ended", deadline_s=DEADLINE_S, pause_s=0.01,
    )  # fmt: skip


def kill_supervisor(cloud: LocalCloud) -> None:
    process = psutil.Process(supervisor_pid(cloud))
    process.kill()
    until_ended(process)
    # A process counts as ended when its first thread has; the others still hold its files.
    until(
        lambda: not cloud.is_running(),
        what="its lock is free", deadline_s=DEADLINE_S, pause_s=0.01,
    )  # fmt: skip


def test_the_first_call_starts_it(new_local_cloud: NewCloud) -> None:
    """Nothing runs before the first call; afterwards every client finds the same supervisor."""
    cloud = new_local_cloud()
    assert not cloud.is_running()
    assert cloud.list_instances("local", tags={}) == []
    assert cloud.is_running()
    assert new_local_cloud().health().pid == cloud.health().pid == supervisor_pid(cloud)
    assert psutil.Process(supervisor_pid(cloud)).ppid() != os.getpid()


def test_the_socket_is_ours_alone(new_local_cloud: NewCloud) -> None:
    """The control socket has a short path in a directory that nobody else can enter."""
    cloud = new_local_cloud()
    cloud.health()
    path = wire.socket_path(cloud.directory)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(os.fsencode(path)) < 104


_RACER = """
import sys
from pathlib import Path
from slipway.clouds.local import LocalCloud
from slipway.settings import Settings
cloud = LocalCloud(Settings(state_dir=Path(sys.argv[1])))
sys.stdin.read()
print(cloud.health().pid)
"""


def test_racing_processes_start_one(new_local_cloud: NewCloud) -> None:
    """Processes and threads that all make the first call meet in one supervisor."""
    cloud = new_local_cloud()
    command = [sys.executable, "-c", _RACER, str(cloud.directory.parent)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: new_local_cloud().health().pid, range(4)))
    for racer in racers:
        output, _ = racer.communicate(timeout=DEADLINE_S)
        assert racer.returncode == 0
        found.add(int(output))
    assert found == {supervisor_pid(cloud)}


def test_it_outlives_who_started_it(new_local_cloud: NewCloud) -> None:
    """The supervisor a process started is still there when that process has ended."""
    cloud = new_local_cloud()
    command = [sys.executable, "-c", _RACER, str(cloud.directory.parent)]
    started = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    assert cloud.health().pid == int(started.stdout)


def test_machines_survive_the_supervisor(new_local_cloud: NewCloud) -> None:
    """After kill -9 what ran reboots, with its key and address; what was off stays off; tokens,
    images and ends are remembered; no process of the time before is left."""
    cloud = new_local_cloud()
    with local_case(cloud) as case:
        running, stopped, ended = (case.running() for _ in range(3))
        cloud.stop("local", stopped.id)
        cloud.terminate("local", ended.id)
        case.until_state(stopped.id, InstanceState.STOPPED)
        case.until_state(ended.id, InstanceState.TERMINATED)
        image = cloud.register_image("faulty", faults=Faults(boot_failure="never"))
        spec = case.spec()
        token = case.running(spec).token
        assert token is not None
        with case.shell(running) as shell:
            boot, key = shell.say(BOOT_ID), shell.host_key
            shell.say("echo kept > kept; (setsid sleep 98765 > /dev/null 2>&1 < /dev/null &)")
            old = {each.pid for each in machine_processes(cloud.directory)}
            assert old
            kill_supervisor(cloud)
        before = {each.id for each in case.listed()}
        with reconnect(case, running, not_boot=boot) as shell:
            assert shell.host_key == key
            assert shell.say("cat kept") == "kept"
            assert shell.run("pgrep -f 'sleep 98765$'").code != 0
        now = {each.pid for each in machine_processes(cloud.directory)}
        assert not old & now
        seen = {each.id: each for each in case.listed()}
        assert set(seen) == before
        assert seen[running.id].address == running.address
        assert seen[running.id].ssh_port == running.ssh_port
        assert seen[stopped.id].state is InstanceState.STOPPED
        assert seen[ended.id].state is InstanceState.TERMINATED
        assert case.create(spec, token=token).id in before
        failing = case.create(replace(case.spec(), image_id=image.id))
        assert case.until_state(failing.id, InstanceState.FAILED).state_reason == "never"


# httpcore does not close the socket of a connection that was refused.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_calls_right_after_a_kill(new_local_cloud: NewCloud) -> None:
    """Calls that meet a dying supervisor fail as unavailable, no worse, and soon find the next."""
    cloud = new_local_cloud()

    def answered() -> bool:
        try:
            cloud.list_instances("local", tags={})
        except CloudUnavailable:
            return False
        return True

    for _ in range(3):
        pid = cloud.health().pid
        os.kill(pid, signal.SIGKILL)
        until(answered, what="a call is answered", deadline_s=DEADLINE_S, pause_s=0.001)
        assert cloud.health().pid != pid


def test_an_end_that_was_begun_is_ended(new_local_cloud: NewCloud) -> None:
    """An instance that was terminating when the supervisor was killed ends all the same."""
    cloud = new_local_cloud()
    with local_case(cloud) as case:
        instance = case.running(case.with_faults(Faults(terminate_s=0.5)))
        cloud.terminate("local", instance.id)
        kill_supervisor(cloud)
        case.until_state(instance.id, InstanceState.TERMINATED)


def test_a_killed_supervisor_leaves_no_holders(new_local_cloud: NewCloud) -> None:
    """The processes that hold machines' namespaces end with the supervisor."""
    cloud = new_local_cloud()
    with local_case(cloud) as case:
        if not cloud.health().confined:
            pytest.skip(cloud.describe_confinement())
        with case.shell(case.running()) as shell:
            shell.say("true")
        children = psutil.Process(supervisor_pid(cloud)).children(recursive=True)
        assert children
        kill_supervisor(cloud)
        until_ended(*children)


def test_down_and_up_again(new_local_cloud: NewCloud) -> None:
    """`down` leaves no process, no socket and no record; machines come back with the next call."""
    cloud = new_local_cloud()
    with local_case(cloud) as case:
        instance = case.running()
        with case.shell(instance) as shell:
            boot = shell.say(BOOT_ID)
            shell.say("(setsid sleep 87654 > /dev/null 2>&1 < /dev/null &)")
        process = psutil.Process(supervisor_pid(cloud))
        cloud.down()
        until_ended(process)
        assert machine_processes(cloud.directory) == []
        assert not wire.socket_path(cloud.directory).exists()
        assert not cloud.is_running()
        cloud.down()
        case.listed()
        reconnect(case, instance, not_boot=boot).close()


def test_a_signal_ends_it_cleanly(new_local_cloud: NewCloud) -> None:
    """SIGTERM is as good as `down`."""
    cloud = new_local_cloud()
    process = psutil.Process(cloud.health().pid)
    os.kill(process.pid, signal.SIGTERM)
    until_ended(process)
    assert not (cloud.directory / "supervisor.json").exists()
    cloud.health()


def test_it_ends_with_its_directory(new_local_cloud: NewCloud, tmp_path: Path) -> None:
    """Who removes the directory has removed the only way to stop it: it goes, machines and all."""
    cloud = new_local_cloud()
    case = local_case(cloud)
    instance = case.running()
    with case.shell(instance) as shell:
        shell.say("(setsid sleep 98764 > /dev/null 2>&1 < /dev/null &)")
        running = [psutil.Process(supervisor_pid(cloud)), *machine_processes(cloud.directory)]
        assert len(running) > 1
        # At once, unlike a removal: files still appear in it.
        shutil.rmtree(cloud.directory.rename(tmp_path / "gone"))
        until_ended(*running)


def test_a_start_that_fails_says_why(new_local_cloud: NewCloud) -> None:
    """When the supervisor cannot start, the error has its reason and names its log."""
    cloud = new_local_cloud()
    folder = wire.socket_path(cloud.directory).parent
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(CloudUnavailable, match=r"nobody else can enter.*supervisor\.log"):
        cloud.health()
    folder.rmdir()
    cloud.health()


def test_another_version_is_named(
    new_local_cloud: NewCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of another release is told to end the supervisor, which works across releases."""
    cloud = new_local_cloud()
    cloud.health()
    other = new_local_cloud()
    monkeypatch.setattr(wire, "PROTOCOL", wire.PROTOCOL + 1)
    with pytest.raises(CloudUnavailable, match="slipway local down"):
        other.list_instances("local", tags={})
    other.down()
    assert not cloud.is_running()


@pytest.mark.slow
def test_many_machines_share_a_look(new_local_cloud: NewCloud) -> None:
    """Sixty machines boot at once and end at once, and every one of them is accounted for."""
    cloud = new_local_cloud()
    with local_case(cloud) as case, ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: case.create().id, range(60)))
        until(
            lambda: sum(each.state is InstanceState.RUNNING for each in case.listed()) == 60,
            what="all run", deadline_s=DEADLINE_S, pause_s=0.1,
        )  # fmt: skip
        addresses = {(each.address, each.ssh_port) for each in case.listed()}
        assert len(addresses) == len(set(made)) == 60
        list(pool.map(lambda each: cloud.terminate("local", each), made))
        until(
            lambda: all(each.state is InstanceState.TERMINATED for each in case.listed()),
            what="all have ended", deadline_s=DEADLINE_S, pause_s=0.1,
        )  # fmt: skip


async def test_the_reaper_looks_once_for_all() -> None:
    """Forty machines that go down together cost a few looks through the process table, not forty,
    and all their processes are gone."""
    reaper = Reaper()
    ids = [f"i-test-{os.getpid()}-{number}" for number in range(40)]
    sleepers = [
        await asyncio.create_subprocess_exec("sleep", "1000", env={MARK: each, "PATH": "/bin"})
        for each in ids
    ]
    await asyncio.gather(*(reaper.kill(each, namespace=None, graceful=False) for each in ids))
    assert {await each.wait() for each in sleepers} == {-signal.SIGKILL}
    assert reaper.scans < 10


class StandingClock:
    """Moves only when somebody sleeps."""

    time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


async def until_async(ask: Callable[[], bool]) -> None:
    """Let the event loop work until it is so."""
    loop = asyncio.get_running_loop()

    async def asked() -> bool:
        return ask()

    def ask_the_loop() -> bool:
        return asyncio.run_coroutine_threadsafe(asked(), loop).result(DEADLINE_S)

    await asyncio.to_thread(
        until, ask_the_loop, what="it is so", deadline_s=DEADLINE_S, pause_s=0.01
    )


async def test_terminated_instances_are_forgotten(tmp_path: Path) -> None:
    """After an hour, and not before, a terminated instance leaves the listing and the disk, and
    its token is free."""
    clock = StandingClock()
    host = Host(tmp_path, Unconfined("a test"), clock)
    await host.start()
    try:
        spec = InstanceSpec(
            name="old", region="local", image_id="local-ssh-never", instance_type="local.small",
            ssh_public_key=KEY.public, login_user="admin",
        )  # fmt: skip
        request = wire.CreateInstance(spec=spec, token="t")
        instance, _ = host.create_instance(request)
        host.terminate(instance.id)

        def state() -> InstanceState:
            (listed,) = host.list_instances({})
            return listed.state

        await until_async(lambda: state() is InstanceState.TERMINATED)
        clock.sleep(TERMINATED_LISTED.total_seconds())
        assert state() is InstanceState.TERMINATED
        assert host.create_instance(request)[0].id == instance.id
        clock.sleep(1)
        assert host.list_instances({}) == []
        assert host.create_instance(request)[0].id != instance.id
        await until_async(lambda: not (tmp_path / "instances" / instance.id).exists())
    finally:
        await host.close()


def test_unknown_images_name_the_nearest(new_local_cloud: NewCloud) -> None:
    """A misspelt image name is answered with the one that was meant."""
    with pytest.raises(NotFound, match="'local-debian-12'"):
        new_local_cloud().resolve_image("local", "local-debain-12")
