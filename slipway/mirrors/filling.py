"""Fetching all that it takes to install some packages of a repository that is not here whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slipway.errors import UpstreamInconsistent
from slipway.mirrors.apt_closure import AptUniverse
from slipway.mirrors.closure import Closure
from slipway.mirrors.manifest import Coverage, SuiteState
from slipway.mirrors.repository import Repository
from slipway.mirrors.rpm_closure import RpmUniverse
from slipway.mirrors.store import Store
from slipway.mirrors.taking import REBASES, Taken, Taking


def fill(
    store: Store,
    repository: Repository,
    takings: Mapping[str, Taking],
    before: Mapping[str, Taken],
    taken: Mapping[str, Taken],
) -> tuple[dict[str, Taken], tuple[str, ...]]:
    """Fetch it for all suites together, as one needs what another has. Answers what was taken, by
    suite, with what is here of it for certain, and what no suite has. Raises as `Taking.take`."""
    for turn in range(REBASES + 1):
        states = [each.state for each in {**before, **taken}.values()]
        found = needed(store, states, repository)
        first = takings[next(iter(taken))]
        try:
            # They all ask the same upstream.
            first.fill(found.entries.values())
        except UpstreamInconsistent:
            # It has changed since: again, from what is signed on.
            if turn == REBASES:
                raise
            first.pause(turn)
            taken = {suite: takings[suite].take() for suite in taken}
        else:
            coverage = Coverage.LAZY if found.missing else Coverage.CLOSURE
            covered = {
                suite: each
                if each.state.coverage is Coverage.COMPLETE
                else each.covering(store, coverage)
                for suite, each in taken.items()
            }
            return covered, found.missing
    raise AssertionError("the last turn returns or raises")


def universe_of(
    store: Store, states: Sequence[SuiteState], architecture: str
) -> AptUniverse | RpmUniverse:
    """All packages of these states, which are of one kind."""
    if any(state.is_rpm for state in states):
        return RpmUniverse(store, states, architecture)
    return AptUniverse(store, states, architecture)


def needed(store: Store, states: Sequence[SuiteState], repository: Repository) -> Closure:
    """What has to be here, for each architecture."""
    fetch = repository.fetch
    found = Closure(entries={}, missing=())
    for architecture in repository.architectures:
        with universe_of(store, states, architecture) as universe:
            theirs = filter(universe.has, fetch.named_by_templates)
            each = universe.closure([*fetch.names, *theirs])
        found = Closure(
            entries={**found.entries, **each.entries},
            missing=tuple(dict.fromkeys((*found.missing, *each.missing))),
        )
    return found
