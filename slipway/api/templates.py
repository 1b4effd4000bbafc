"""``/v1/templates`` and ``/v1/image-maps``: recipes, their versions, and what is different."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from slipway import changes
from slipway.api.acting import Writing
from slipway.api.auth import require
from slipway.api.paging import Limit, Marker, Page, page_of, read_marker
from slipway.api.problems import responses
from slipway.api.state import TheServices
from slipway.api.words import TEMPLATE, VERSION, Given, TemplateName
from slipway.errors import NotFound
from slipway.launches.listing import Slice
from slipway.launches.services import Services
from slipway.servertemplates import TemplateSummary, VersionInfo
from slipway.spelling import nearest_or_all

router = APIRouter(prefix="/v1", tags=["templates"])

_reading = [Depends(require("read"))]

Version = Annotated[
    str,
    Path(
        pattern=VERSION,
        description="A tag, `r4`, six or more characters of the hash, `latest`, or `head` for "
        "the working copy.",
        examples=["prod"],
    ),
]


class VersionOut(BaseModel):
    """One committed version; its content never changes."""

    model_config = ConfigDict(title="TemplateVersion")

    template: str = Field(examples=["hello-web"])
    version: str = Field(examples=["r4"])
    hash: str = Field(description="SHA-256 of the content.", examples=["5f2b" * 16])
    parent: str | None = Field(description="Hash of the version before.", examples=["77aa" * 16])
    message: str = Field(examples=["A friendlier greeting"])
    author: str = Field(examples=["token/ci"])
    created_at: datetime = Field(examples=["2026-11-20T08:30:00.125000Z"])
    tags: list[str] = Field(examples=[["prod"]])

    @classmethod
    def of(cls, version: VersionInfo) -> VersionOut:
        """From its record."""
        return cls(
            template=version.name,
            version=f"r{version.number}",
            hash=version.hash,
            parent=version.parent,
            message=version.message,
            author=version.author,
            created_at=version.created_at,
            tags=list(version.tags),
        )


class TemplateOut(BaseModel):
    """A recipe for servers."""

    model_config = ConfigDict(title="Template")

    name: str = Field(examples=["hello-web"])
    description: str = Field(examples=["A web server that greets."])
    newest: VersionOut | None
    tags: list[str] = Field(examples=[["prod"]])
    working_copy: Literal["committed", "changed", "new", "invalid", "none"] = Field(
        description="How the working copy compares with the newest version.",
        examples=["committed"],
    )

    @classmethod
    def of(cls, summary: TemplateSummary) -> TemplateOut:
        """From its records."""
        return cls(
            name=summary.name,
            description=summary.description,
            newest=VersionOut.of(summary.newest) if summary.newest else None,
            tags=list(summary.tags),
            working_copy=summary.working_copy,  # type: ignore[arg-type]  # one of these words
        )


class DocumentOut(BaseModel):
    """Everything a launch takes from a template, with all layers resolved."""

    model_config = ConfigDict(title="TemplateDocument")

    template: str = Field(examples=["hello-web"])
    hash: str = Field(description="SHA-256 of the content.", examples=["5f2b" * 16])
    version: VersionOut | None = Field(description="Null for a working copy not committed yet.")
    document: dict[str, Any] = Field(
        description="The resolved document; scripts are named by their SHA-256.",
        examples=[{"schema": "slipway-resolved/1", "name": "hello-web"}],
    )


class FieldChangeOut(BaseModel):
    """One value that is different; null where a side does not have it."""

    model_config = ConfigDict(title="FieldChange")

    path: str = Field(examples=["settings.instance_type"])
    before: Any = Field(examples=["local.small"])
    after: Any = Field(examples=["local.large"])


class ScriptChangeOut(BaseModel):
    """One script that is different."""

    model_config = ConfigDict(title="ScriptChange")

    path: str = Field(examples=["hello-web/scripts/start.sh"])
    change: Literal["added", "removed", "changed"]
    diff: str = Field(description="Unified diff.", examples=["--- a/…\n+++ b/…\n"])


class DiffOut(BaseModel):
    """From one version to another."""

    model_config = ConfigDict(title="TemplateDiff")

    before: str = Field(examples=["hello-web@r3"])
    after: str = Field(examples=["hello-web@head"])
    before_hash: str = Field(examples=["77aa" * 16])
    after_hash: str = Field(examples=["5f2b" * 16])
    fields: list[FieldChangeOut]
    scripts: list[ScriptChangeOut]


class CommitIn(Given):
    """What to say of a new version."""

    message: str = Field(
        min_length=1,
        max_length=2000,
        description="What changed, in a sentence.",
        examples=["A friendlier greeting"],
    )


class TagIn(Given):
    """Where a tag is to point."""

    version: str = Field(
        pattern=VERSION,
        description="`r4`, another tag, the start of a hash, `latest`, or `head` when it is "
        "committed.",
        examples=["r4"],
    )


class ImageMapOut(BaseModel):
    """Which image a name stands for, by cloud, region and architecture."""

    model_config = ConfigDict(title="ImageMap")

    name: str = Field(examples=["debian-12"])
    description: str = Field(examples=["Debian 12 from its cloud team"])
    entries: dict[str, dict[str, dict[str, dict[str, Any]]]] = Field(
        description="Cloud, then region (`*` is any), then architecture.",
        examples=[{"local": {"*": {"x86_64": {"image": "debian-12", "user": "admin"}}}}],
    )
    problems: list[str] = Field(
        description="What is wrong with its file; empty for one that can be used.", examples=[[]]
    )


@router.get(
    "/templates",
    operation_id="listTemplates",
    dependencies=_reading,
    responses=responses(400, 401, 403, 422),
)
def list_templates(
    services: TheServices, limit: Limit = 100, marker: Marker = None
) -> Page[TemplateOut]:
    """All templates that have a working copy or a version, by name."""
    place = "templates"
    after = read_marker(services, place, marker)
    found = _cut(services, services.templates.list(), after, limit, key=lambda each: each.name)
    return page_of(services, place, found, key=lambda each: [each.name], shown=TemplateOut.of)


@router.get(
    "/templates/{name}",
    operation_id="getTemplate",
    dependencies=_reading,
    responses=responses(401, 403, 404, 422),
)
def get_one_template(services: TheServices, name: TemplateName) -> TemplateOut:
    """One template."""
    known = {each.name: each for each in services.templates.list()}
    if name not in known:
        raise NotFound(f"there is no template {name}{nearest_or_all(name, known)}")
    return TemplateOut.of(known[name])


@router.get(
    "/templates/{name}/versions",
    operation_id="listTemplateVersions",
    dependencies=_reading,
    responses=responses(400, 401, 403, 404, 422),
)
def list_versions(
    services: TheServices, name: TemplateName, limit: Limit = 100, marker: Marker = None
) -> Page[VersionOut]:
    """The versions of a template, the newest first."""
    place = f"versions {name}"
    before = read_marker(services, place, marker)
    versions = services.templates.log(name)
    found = _cut(services, versions, before, limit, key=lambda each: -each.number)
    return page_of(services, place, found, key=lambda each: [-each.number], shown=VersionOut.of)


@router.post(
    "/templates/{name}/versions",
    status_code=201,
    operation_id="commitTemplate",
    responses=responses(401, 403, 404, 413, 422),
)
def commit(act: Writing, response: Response, name: TemplateName, body: CommitIn) -> VersionOut:
    """Keep the working copy as a version, with everything it includes. Content that was committed
    before stays the version that it is."""
    templates = act.services.templates

    def make() -> str:
        done = templates.commit(
            name,
            body.message,
            act.who.actor,
            also=lambda connection: act.record(
                connection, templates.head(name).hash, f"template {name} committed"
            ),
        )
        return done.version.hash

    version = templates.version(f"{name}@{act.once(make)}")
    response.headers["Location"] = f"/v1/templates/{name}/versions/r{version.number}"
    return VersionOut.of(version)


@router.get(
    "/templates/{name}/versions/{version}",
    operation_id="getTemplateVersion",
    dependencies=_reading,
    responses=responses(401, 403, 404, 422),
)
def get_one_version(services: TheServices, name: TemplateName, version: Version) -> VersionOut:
    """What a tag, a number or the start of a hash stands for."""
    if version == "head":
        committed = services.templates.show(f"{name}@head")[1]
        if committed is None:
            raise NotFound(f"the working copy of {name} is not committed")
        return VersionOut.of(committed)
    return VersionOut.of(services.templates.version(f"{name}@{version}"))


@router.get(
    "/templates/{name}/versions/{version}/document",
    operation_id="getTemplateDocument",
    dependencies=_reading,
    responses=responses(401, 403, 404, 422),
)
def get_document(services: TheServices, name: TemplateName, version: Version) -> DocumentOut:
    """The content of a version, with all layers resolved."""
    resolved, committed = services.templates.show(f"{name}@{version}")
    return DocumentOut(
        template=name,
        hash=resolved.hash,
        version=VersionOut.of(committed) if committed else None,
        document=json.loads(resolved.document),
    )


@router.get(
    "/templates/{name}/diff",
    operation_id="diffTemplate",
    dependencies=_reading,
    responses=responses(401, 403, 404, 422),
)
def diff(
    services: TheServices,
    name: TemplateName,
    before: Annotated[
        str, Query(alias="from", pattern=VERSION, description="A version.", examples=["r3"])
    ] = "latest",
    after: Annotated[
        str, Query(alias="to", pattern=VERSION, description="A version.", examples=["head"])
    ] = "head",
) -> DiffOut:
    """What changes from one version to another: fields by section, scripts as text."""
    found = services.templates.diff(f"{name}@{before}", f"{name}@{after}")
    return DiffOut(
        before=found.before,
        after=found.after,
        before_hash=found.before_hash,
        after_hash=found.after_hash,
        fields=[
            FieldChangeOut(path=each.path, before=each.before, after=each.after)
            for each in found.fields
        ],
        scripts=[
            ScriptChangeOut(path=each.path, change=each.change, diff=each.diff)
            for each in found.scripts
        ],
    )


@router.put(
    "/templates/{name}/tags/{tag}",
    operation_id="setTag",
    responses=responses(401, 403, 404, 413, 422),
)
def set_tag(
    act: Writing,
    name: TemplateName,
    tag: Annotated[str, Path(pattern=VERSION, description="The tag.", examples=["prod"])],
    body: TagIn,
) -> VersionOut:
    """Point a tag at a version; it moves if it points elsewhere."""
    templates = act.services.templates

    def make() -> str:
        version = templates.tag(
            name,
            f"{name}@{body.version}",
            tag,
            actor=act.who.actor,
            also=lambda connection: act.record(
                connection, tag, f"tag {tag} of template {name} set to {body.version}"
            ),
        )
        assert tag in version.tags, "it was just set"
        return tag

    act.once(make)
    return VersionOut.of(templates.version(f"{name}@{tag}"))


@router.get(
    "/image-maps",
    operation_id="listImageMaps",
    dependencies=_reading,
    responses=responses(400, 401, 403, 422),
)
def list_image_maps(
    services: TheServices, limit: Limit = 100, marker: Marker = None
) -> Page[ImageMapOut]:
    """All image maps by name."""
    place = "image-maps"
    after = read_marker(services, place, marker)
    names = services.templates.library().image_names()
    found = _cut(services, names, after, limit, key=lambda each: each)
    return page_of(
        services,
        place,
        found,
        key=lambda each: [each],
        shown=lambda each: _image_map(services, each),
    )


@router.get(
    "/image-maps/{name}",
    operation_id="getImageMap",
    dependencies=_reading,
    responses=responses(401, 403, 404, 422),
)
def get_image_map(
    services: TheServices,
    name: Annotated[str, Path(pattern=TEMPLATE, examples=["debian-12"])],
) -> ImageMapOut:
    """One image map."""
    known = services.templates.library().image_names()
    if name not in known:
        raise NotFound(f"there is no image map {name}{nearest_or_all(name, known)}")
    return _image_map(services, name)


def _image_map(services: Services, name: str) -> ImageMapOut:
    found, problems = services.templates.library().read_image_map(name)
    entries: dict[str, Any] = {}
    if found is not None:
        entries = found.model_dump(mode="json", exclude_none=True)["entries"]
    return ImageMapOut(
        name=name,
        description=found.description if found else "",
        entries=entries,
        problems=[str(problem) for problem in problems],
    )


def _cut(
    services: Services, rows: Sequence[Any], after: list[Any] | None, limit: int, *, key: Any
) -> Slice[Any]:
    """A page of a list that is small enough to be read whole."""
    behind = [row for row in rows if after is None or key(row) > after[0]]
    with services.database.reading() as connection:
        as_of = changes.newest(connection)
    return Slice(rows=tuple(behind[:limit]), more=len(behind) > limit, as_of=as_of)
