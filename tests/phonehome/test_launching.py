"""Launches of servers that nobody can log in to."""

from __future__ import annotations

from slipway.clouds.local import Faults
from tests.launches.world import World, counted
from tests.phonehome.serving import Api

#: Inbound SSH is closed: the machine runs and refuses every connection.
CLOSED = Faults(ssh_never=True)


def test_a_server_that_calls_us_becomes_operational(calling: tuple[World, Api]) -> None:
    """Nobody can log in, and every step is taken as ever: gates, scripts in order, the record."""
    world, _ = calling
    world.template(
        {"one": counted("one", "echo hello"), "two": counted("two", "seq 3000")},
        faults=CLOSED,
        connect="agent",
    )
    launch, outcome = world.launch()
    print("\n".join(world.summaries(launch)))
    assert outcome.status == "operational", outcome
    assert world.runs(launch) == ["one", "two"]
    world.check_invariants(launch)
