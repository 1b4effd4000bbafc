"""A launch on which nothing goes wrong."""

from __future__ import annotations

from tests.launches.world import World, counted


def test_a_launch_becomes_operational(world: World) -> None:
    """Every script ran once, in order, and the record is whole."""
    world.template({"one": counted("one", "echo hello"), "two": counted("two")})
    launch, outcome = world.launch()
    assert outcome.status == "operational", outcome
    assert world.runs(launch) == ["one", "two"]
    world.check_invariants(launch)
