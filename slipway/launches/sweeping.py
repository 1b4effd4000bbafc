"""Finding and removing what was left behind in a cloud: ours, expired, and used by nobody.

A dry run looks; a real run removes exactly what a look has found, and looks at each thing again
just before it goes. Another kind of thing is one more row of `KINDS`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from slipway import audit
from slipway.audit import Note
from slipway.clouds.base import (
    TAG_EXPIRES,
    TAG_INSTALLATION,
    TAG_LAUNCH,
    TAG_SERVER,
    Cloud,
    Image,
    Instance,
    InstanceState,
    ResourceKind,
)
from slipway.errors import SlipwayError
from slipway.ids import new_id
from slipway.launches.creating import TAG_GENERATION
from slipway.launches.services import Services
from slipway.records import AuditKind, Launch, LaunchStatus
from slipway.servertemplates import ImageMap

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something in a cloud, as far as a sweep cares."""

    kind: str
    id: str
    #: In words: ``running, server web-1``.
    what: str
    tags: Mapping[str, str]
    #: None when the cloud does not tell.
    created_at: datetime | None
    #: Names it may be used by, besides its id.
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of thing that can be left behind, over the `Cloud` port."""

    name: str
    listed: Callable[[Cloud, str, Mapping[str, str]], Iterable[Thing]]
    remove: Callable[[Cloud, str, str], None]


@dataclass(frozen=True, kw_only=True)
class References:
    """What our records use; read after the cloud was listed, as records come first."""

    #: Launches that have not ended, by id.
    active: Mapping[str, Launch]
    ended: frozenset[str]
    #: Ids, names and ``name-*`` patterns of images that a launch or an image map names.
    images: frozenset[str]

    def uses_region(self, cloud: str, region: str) -> bool:
        """Whether a launch that has not ended lives there."""
        return any((each.cloud, each.region) == (cloud, region) for each in self.active.values())


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something that may go, and why."""

    cloud: str
    region: str
    thing: Thing
    expired_at: datetime
    why: str

    @property
    def name(self) -> str:
        """Which it is, for people: ``instance i-1 in local/local``."""
        return f"{self.thing.kind} {self.thing.id} in {self.cloud}/{self.region}"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at every cloud has found."""

    #: The subject its audit entries are kept under is ``sweep/`` and this.
    id: str
    leftovers: tuple[Leftover, ...] = ()
    #: Places that could not be looked at, one sentence each.
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What came of one leftover: ``removed``, ``kept`` (it is in use now, or gone) or
    ``failed``."""

    leftover: Leftover
    outcome: str
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a real run did, in the order of the look."""

    removals: tuple[Removal, ...] = field(default=())

    def count(self, outcome: str) -> int:
        """How many came out so."""
        return sum(each.outcome == outcome for each in self.removals)


def _instances(cloud: Cloud, region: str, tags: Mapping[str, str]) -> Iterable[Thing]:
    for instance in cloud.list_instances(region, tags=tags):
        if instance.state is not InstanceState.TERMINATED:
            yield _instance(instance)


def _instance(instance: Instance) -> Thing:
    server = instance.tags.get(TAG_SERVER)
    return Thing(
        kind="instance",
        id=instance.id,
        what=f"{instance.state}, server {server}" if server else str(instance.state),
        tags=instance.tags,
        created_at=instance.created_at,
    )


def _images(cloud: Cloud, region: str, tags: Mapping[str, str]) -> Iterable[Thing]:
    if cloud.capabilities.images:
        yield from (_image(each) for each in cloud.list_images(region, tags=tags))


def _image(image: Image) -> Thing:
    return Thing(
        kind="image",
        id=image.id,
        what=f"{image.state}, {image.name}",
        tags=image.tags,
        created_at=image.created_at,
        names=(image.name,),
    )


def _resource_kind(kind: ResourceKind) -> Kind:
    def listed(cloud: Cloud, region: str, tags: Mapping[str, str]) -> Iterable[Thing]:
        for each in cloud.list_resources(region, kind, tags=tags):
            yield Thing(
                kind=kind.value,
                id=each.id,
                what=each.name,
                tags=each.tags,
                created_at=each.created_at,
            )

    def remove(cloud: Cloud, region: str, thing_id: str) -> None:
        cloud.delete_resource(region, kind, thing_id)

    return Kind(name=kind.value, listed=listed, remove=remove)


#: In the order in which they are removed: what uses something goes before it.
KINDS: tuple[Kind, ...] = (
    Kind(
        name="instance",
        listed=_instances,
        remove=lambda cloud, region, thing_id: cloud.terminate(region, thing_id),
    ),
    Kind(
        name="image",
        listed=_images,
        remove=lambda cloud, region, thing_id: cloud.delete_image(region, thing_id),
    ),
    *(_resource_kind(kind) for kind in ResourceKind),
)


def judge(
    thing: Thing, *, installation_id: str, references: References, now: datetime
) -> tuple[datetime, str] | None:
    """When it expired and why it may go; None when it has to stay. Whoever is in doubt keeps: no
    tag of ours, no readable expiry, any use on record."""
    if thing.tags.get(TAG_INSTALLATION) != installation_id:
        return None
    expires = _expiry(thing.tags.get(TAG_EXPIRES, ""))
    if expires is None or expires >= now:
        return None
    if thing.kind == "image" and _is_named(thing, references.images):
        return None
    launch_id = thing.tags.get(TAG_LAUNCH)
    launch = references.active.get(launch_id or "")
    if launch is not None:
        if thing.kind != "instance" or _is_current(thing, launch):
            return None
        return expires, f"launch {launch.id} has made another instance since"
    if launch_id is None:
        return expires, "no launch uses it"
    if launch_id in references.ended:
        return expires, f"launch {launch_id} is terminated"
    return expires, f"launch {launch_id} is not on record"


def look(services: Services) -> Look:
    """Find every leftover in every cloud and region. A place that cannot be looked at is a problem
    of the look, and none of the others'. Changes nothing."""
    found: list[tuple[str, str, Thing]] = []
    problems: list[str] = []
    for name, region, cloud in _places(services, problems):
        for kind in KINDS:
            tags = {TAG_INSTALLATION: services.installation_id}
            try:
                found += [(name, region, thing) for thing in kind.listed(cloud, region, tags)]
            except SlipwayError as error:
                problems.append(f"{kind.name}s of {name}/{region} could not be listed: {error}")
    with_images = any(thing.kind == "image" for _, _, thing in found)
    references, unreadable = _references(services, with_images=with_images)
    problems += unreadable
    now = services.clock.now()
    leftovers = [
        leftover
        for cloud_name, region, thing in found
        if (leftover := _leftover(services, cloud_name, region, thing, references, now))
    ]
    order = {kind.name: position for position, kind in enumerate(KINDS)}
    leftovers.sort(
        key=lambda each: (order[each.thing.kind], each.cloud, each.region, each.expired_at)
    )
    return Look(id=new_id("sweep", now), leftovers=tuple(leftovers), problems=tuple(problems))


def sweep(services: Services, found: Look, *, actor: str, because: str) -> Swept:
    """Remove what a look has found, and nothing else. Each is looked at again first; one that
    cannot be removed stops none of the others. Every removal is on record before it happens.

    ``because`` says who agreed, in words, for the audit.
    """
    subject = subject_of(found.id)
    _note(services, subject, actor, AuditKind.SECTION, f"{_begin(found)}; {because}")
    removals = []
    for leftover in found.leftovers:
        removal = _remove(services, leftover, subject=subject, actor=actor)
        removals.append(removal)
        kind = AuditKind.ERROR if removal.outcome == "failed" else AuditKind.INFO
        text = f"{leftover.name} {removal.outcome}" + (f": {removal.why}" if removal.why else "")
        _note(services, subject, actor, kind, text)
    return Swept(removals=tuple(removals))


def subject_of(sweep_id: str) -> str:
    """The name the audit entries of a sweep are kept under."""
    return f"sweep/{sweep_id}"


def rows(leftovers: Sequence[Leftover]) -> list[dict[str, str]]:
    """For tables: one row each, as words."""
    return [
        {
            "kind": each.thing.kind,
            "id": each.thing.id,
            "cloud": f"{each.cloud}/{each.region}",
            "what": each.thing.what,
            "created": f"{each.thing.created_at:%Y-%m-%d %H:%M}" if each.thing.created_at else "",
            "expired": f"{each.expired_at:%Y-%m-%d %H:%M}",
            "why": each.why,
        }
        for each in leftovers
    ]


def _places(services: Services, problems: list[str]) -> Iterable[tuple[str, str, Cloud]]:
    for name, cloud in services.clouds.items():
        try:
            regions = list(cloud.regions())
        except SlipwayError as error:
            problems.append(f"the regions of cloud {name} could not be listed: {error}")
            continue
        yield from ((name, region, cloud) for region in regions)


def _references(services: Services, *, with_images: bool) -> tuple[References, list[str]]:
    """What our records use, and what of them could not be read."""
    active, ended = {}, set()
    with services.database.reading() as connection:
        for row in connection.execute(sa.select(_LAUNCHES)).mappings():
            if row["status"] == LaunchStatus.TERMINATED:
                ended.add(row["id"])
            else:
                active[row["id"]] = Launch(**row)
    images = {launch.image_id for launch in active.values()}
    problems: list[str] = []
    if with_images:
        maps, problems = _image_maps(services)
        images |= {
            choice.image
            for image_map in maps
            for regions in image_map.entries.values()
            for choices in regions.values()
            for choice in choices.values()
        }
        if problems:
            images.add("*")
    found = References(active=active, ended=frozenset(ended), images=frozenset(images))
    return found, problems


def _image_maps(services: Services) -> tuple[list[ImageMap], list[str]]:
    """Every image map anything can be launched with: those in the templates directory, and those
    of all committed versions."""
    library, found, problems = services.templates.library(), [], []
    for name in library.image_names():
        image_map, wrong = library.read_image_map(name)
        if image_map is not None:
            found.append(image_map)
        if wrong:
            problems.append(f"no image is removed while image map {name} is wrong: {wrong[0]}")
    for template in services.templates.list():
        if template.newest is not None:
            for version in services.templates.log(template.name):
                committed = services.template(template.name, version.hash).image
                if committed is not None:
                    found.append(committed)
    return found, problems


def _leftover(
    services: Services,
    cloud: str,
    region: str,
    thing: Thing,
    references: References,
    now: datetime,
) -> Leftover | None:
    if thing.kind == ResourceKind.KEY_PAIR and references.uses_region(cloud, region):
        # All launches there share it.
        return None
    verdict = judge(thing, installation_id=services.installation_id, references=references, now=now)
    if verdict is None:
        return None
    expired_at, why = verdict
    return Leftover(cloud=cloud, region=region, thing=thing, expired_at=expired_at, why=why)


def _remove(services: Services, leftover: Leftover, *, subject: str, actor: str) -> Removal:
    try:
        if not _still_there(services, leftover):
            why = "it is gone, or in use by now"
            return Removal(leftover=leftover, outcome="kept", why=why)
        # On record first: if we die inside the call, somebody can find out what it was.
        _note(services, subject, actor, AuditKind.INFO, f"removing {leftover.name}: {leftover.why}")
        kind = next(each for each in KINDS if each.name == leftover.thing.kind)
        kind.remove(services.clouds[leftover.cloud], leftover.region, leftover.thing.id)
    except SlipwayError as error:
        return Removal(leftover=leftover, outcome="failed", why=str(error))
    return Removal(leftover=leftover, outcome="removed")


def _still_there(services: Services, leftover: Leftover) -> bool:
    """Whether the same thing is listed and may go, by the records as they are now."""
    thing, cloud = leftover.thing, services.clouds[leftover.cloud]
    # As narrow as tags allow: a listing of everything per removal would be many.
    tags = {tag: thing.tags[tag] for tag in (TAG_INSTALLATION, TAG_LAUNCH) if tag in thing.tags}
    kind = next(each for each in KINDS if each.name == thing.kind)
    same = [each for each in kind.listed(cloud, leftover.region, tags) if each.id == thing.id]
    references, _ = _references(services, with_images=thing.kind == "image")
    now = services.clock.now()
    place = (leftover.cloud, leftover.region)
    return any(_leftover(services, *place, each, references, now) for each in same)


def _is_current(thing: Thing, launch: Launch) -> bool:
    """Whether the launch uses this instance, or may have just made it: what it was told of the
    creation may not be on record yet."""
    generation = thing.tags.get(TAG_GENERATION)
    return thing.id == launch.instance_id or generation in (None, str(launch.generation))


def _is_named(thing: Thing, images: Collection[str]) -> bool:
    """Whether a selector may mean this image; those of clouds have an owner or a path before the
    name."""
    words = (thing.id, *thing.names)
    patterns = {each for image in images for each in (image, image.rpartition("/")[2])}
    return any(fnmatch.fnmatchcase(word, pattern) for word in words for pattern in patterns)


def _expiry(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    # Without a zone nobody knows when that is.
    return found if found.tzinfo is not None else None


def _begin(found: Look) -> str:
    names = ", ".join(each.name for each in found.leftovers) or "nothing"
    return f"sweep of {len(found.leftovers)}: {names}"


def _note(services: Services, subject: str, actor: str, kind: AuditKind, text: str) -> None:
    with services.database.transaction() as connection:
        at = services.clock.now()
        audit.append(connection, subject, [Note(kind=kind, summary=text)], actor=actor, at=at)
