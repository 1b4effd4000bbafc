"""Templates out of what RightScale's ``right_st`` tool downloads.

It reads a ServerTemplate's YAML, the RightScripts beside it with their metadata comments, and
MultiCloudImages written out in full. Formats as ``right_st`` documents and writes them
(https://github.com/flexera-public/right_st, README). Whatever has no counterpart is in the report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from slipway.errors import Conflict, InvalidInput, NotFound, Problem
from slipway.servertemplates.inputs import name_problem
from slipway.servertemplates.library import IMAGES_DIR, TEMPLATE_FILE
from slipway.servertemplates.scripts import find_header, read_script
from slipway.servertemplates.write import to_yaml
from slipway.servertemplates.yaml_source import Located, load

_TEMPLATE_KEYS = {"Name", "Description", "Inputs", "RightScripts", "MultiCloudImages", "Alerts"}
_SCRIPT_KEYS = {"RightScript Name", "Description", "Inputs", "Attachments", "Packages"}
_INPUT_KEYS = {
    "Category",
    "Description",
    "Input Type",
    "Required",
    "Advanced",
    "Default",
    "Possible Values",
}
_SEQUENCES = {"Boot": "boot", "Operational": "operational", "Decommission": "decommission"}
_MCI_KEYS = {"Name", "Description", "Revision", "Publisher", "Href", "Tags", "Settings"}
_SETTING_KEYS = {"Cloud", "Instance Type", "Image", "User Data"}

#: What another server's variables are called here.
_ATTRIBUTES = {
    "PRIVATE_IP": "private_ip",
    "EC2_LOCAL_IPV4": "private_ip",
    "PUBLIC_IP": "public_ip",
    "EC2_PUBLIC_IPV4": "public_ip",
    "RS_SERVER_NAME": "name",
}
#: The account of well-known images, by a word in the MultiCloudImage's name.
_USERS = {
    "ubuntu": "ubuntu",
    "debian": "admin",
    "centos": "centos",
    "rhel": "ec2-user",
    "redhat": "ec2-user",
    "amazon": "ec2-user",
    "windows": "Administrator",
}
#: A header whose first line was lost in an edit; seen in published scripts.
_HEADLESS = re.compile(r"^(?P<mark>#|//|--) ?RightScript Name:")
_COMMENT = re.compile(r"^\s*(?P<mark>#|//|--)")
_RIGHTLINK = re.compile(r"\$\{?(?P<variable>RS_[A-Z0-9_]+)|(?<![\w/.-])(?P<command>rsc|rs_tag)\s")


@dataclass(frozen=True, kw_only=True)
class NotCarried:
    """One thing that has no counterpart, and what to do about it."""

    #: Where it stands in what was imported: ``server_template.yaml:12: Alerts[0]``.
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of an import."""

    #: The new template's name.
    name: str
    files: tuple[Path, ...]
    #: What was read → what it became, paths below the two directories.
    carried: tuple[tuple[str, str], ...]
    not_carried: tuple[NotCarried, ...]


def import_rightscale(path: Path, templates_dir: Path, *, name: str | None = None) -> ImportReport:
    """Write a template directory from a ServerTemplate YAML of ``right_st``.

    Raises `NotFound` for a missing file, `InvalidInput` for one that is not a ServerTemplate, and
    `Conflict` when there is a template of that name already. Nothing is written then.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    return _Import(path, templates_dir, name).run()


@dataclass
class _Body:
    """A script on its way: what stands before and after its header, and the header to be."""

    before: str
    after: str
    #: ``#``, ``//`` or ``--``.
    mark: str
    ours: dict[str, Any]


@dataclass
class _Import:
    path: Path
    templates_dir: Path
    wanted_name: str | None
    notes: list[NotCarried] = field(default_factory=list)
    carried: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    #: Input name → what scripts say, and whether they agree.
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Original path → (file in the template, title), or None for one that cannot be carried.
    scripts: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    _bodies: dict[str, _Body] = field(default_factory=dict)
    _maps: dict[str, bytes] = field(default_factory=dict)

    def run(self) -> ImportReport:
        located, problems = self._load(self.path)
        if not problems and not isinstance(located.data, dict):
            problems = [Problem(where=located.where(), what="this is not a ServerTemplate's YAML")]
        if not problems and "Name" not in located.data:
            what = "'Name' is missing; this is not a ServerTemplate as right_st writes it"
            problems = [Problem(where=located.where(), what=what)]
        if problems:
            raise InvalidInput(problems)
        data: dict[str, Any] = located.data
        name = self.wanted_name or _slug(str(data["Name"]))
        if (self.templates_dir / name).exists():
            raise Conflict(f"there is a template directory {name!r} already; nothing was written")
        self._unknown(located, (), data, _TEMPLATE_KEYS)
        document: dict[str, Any] = {"schema": "slipway/1", "name": name}
        if data.get("Description"):
            document["description"] = str(data["Description"])
        sequences = self._sequences(located, data.get("RightScripts") or {})
        self._template_inputs(located, data.get("Inputs") or {})
        image = self._images(located, data.get("MultiCloudImages") or [])
        if image:
            document["image"] = image
        declared = self._settled_inputs()
        if declared:
            document["inputs"] = declared
        document |= {key: value for key, value in sequences.items() if value}
        for index, alert in enumerate(data.get("Alerts") or []):
            self._alert(located, index, alert)
        self._write_scripts()
        self.files = {f"{name}/{path}": content for path, content in self.files.items()}
        self.files[f"{name}/{TEMPLATE_FILE}"] = to_yaml(document).encode()
        self.files |= self._maps
        self.carried.insert(0, (self.path.name, f"{name}/{TEMPLATE_FILE}"))
        for path, content in self.files.items():
            file = self.templates_dir / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            if "/scripts/" in path:
                file.chmod(0o755)
        return ImportReport(
            name=name,
            files=tuple(self.templates_dir / path for path in self.files),
            carried=tuple(self.carried),
            not_carried=tuple(self.notes),
        )

    # --- Scripts ----------------------------------------------------------------------------------

    def _sequences(self, located: Located, written: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"boot": [], "operational": {}, "decommission": []}
        if not isinstance(written, dict):
            self._note(located.where(("RightScripts",)), "this is not a mapping; no script is here")
            return found
        self._unknown(located, ("RightScripts",), written, set(_SEQUENCES))
        for sequence, key in _SEQUENCES.items():
            for index, item in enumerate(written.get(sequence) or []):
                where = located.where(("RightScripts", sequence, index))
                script = self._script(where, item)
                if script is None:
                    continue
                path, title = script
                if key == "operational":
                    label = _slug(title)
                    while label in found[key] and found[key][label] != path:
                        label += "-2"
                    found[key][label] = path
                elif path in found[key]:
                    self._note(where, f"{path} is in {sequence} twice; here a script runs once")
                else:
                    found[key].append(path)
        return found

    def _script(self, where: str, item: Any) -> tuple[str, str] | None:
        if isinstance(item, dict):
            title = item.get("Name", "a RightScript")
            origin = f" of {item['Publisher']}" if item.get("Publisher") else ""
            revision = f", revision {item['Revision']}" if item.get("Revision") else ""
            self._note(
                where,
                f"RightScript {title!r}{origin}{revision} is a reference into a RightScale account;"
                " download it with 'right_st rightscript download' and put it at this place",
            )
            return None
        written = str(item)
        if written not in self.scripts:
            self.scripts[written] = self._read_script(where, written)
        return self.scripts[written]

    def _read_script(self, where: str, written: str) -> tuple[str, str] | None:
        file = (self.path.parent / written.replace("\\", "/")).resolve()
        if not file.is_file():
            self._note(where, f"there is no file {written!r} beside the ServerTemplate")
            return None
        raw = file.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._note(where, f"{written} is not UTF-8 (byte {error.start}); convert it first")
            return None
        if b"\r\n" in raw and file.suffix.lower() != ".ps1":
            self._note(f"{written}:1", "its Windows line endings were changed to LF")
            text = text.replace("\r\n", "\n")
        before, header, mark, after = self._split(written, text)
        title = str(header.data.get("RightScript Name") or PurePosixPath(written).stem)
        before, runnable = self._with_shebang(written, before, after)
        if not runnable:
            return None
        self._unknown(header, (), header.data, _SCRIPT_KEYS)
        ours: dict[str, Any] = {"name": title}
        if header.data.get("Description"):
            described = str(header.data["Description"]).strip()
            if any(line.strip() in ("---", "...") for line in described.splitlines()):
                # Such a line would end the header.
                described = " ".join(described.split())
            ours["description"] = described
        declared = self._script_inputs(header, header.data.get("Inputs") or {})
        if declared:
            ours["inputs"] = declared
        packages = header.data.get("Packages")
        if packages:
            listed = packages if isinstance(packages, list) else str(packages).split()
            ours["packages"] = [str(package) for package in listed]
        for index, attachment in enumerate(header.data.get("Attachments") or []):
            self._note(
                header.where(("Attachments", index)),
                f"attachment {attachment!r} is not shipped with a script here; put it in a package "
                "or fetch it in the script",
            )
        self._rightlink_words(written, before + after, set(declared))
        target = f"scripts/{_file_name(written)}"
        number = 2
        while any(target == taken[0] for taken in self.scripts.values() if taken):
            stem = PurePosixPath(_file_name(written))
            target = f"scripts/{stem.stem}-{number}{stem.suffix}"
            number += 1
        self._bodies[target] = _Body(before=before, after=after, mark=mark, ours=ours)
        self.carried.append((written, target))
        return target, title

    def _split(self, written: str, text: str) -> tuple[str, Located, str, str]:
        """The script before its metadata, the metadata, its comment mark, and the rest."""
        lines = text.splitlines(keepends=True)
        nothing = Located(source=written, data={})
        try:
            found = find_header(text)
        except ValueError as error:
            # Ours is found first; what was meant to be one stays as comments.
            self._note(f"{written}:1", f"{error}; its inputs are not known")
            first = 1 if text.startswith("#!") else 0
            return "".join(lines[:first]), nothing, "#", "".join(lines[first:])
        if found is None:
            headless = next((i for i, line in enumerate(lines) if _HEADLESS.match(line)), None)
            if headless is None:
                first = 1 if text.startswith("#!") else 0
                return "".join(lines[:first]), nothing, "#", "".join(lines[first:])
            self._note(f"{written}:{headless + 1}", "the metadata has no '# ---' before it; read")
            lines.insert(headless, "# ---\n")
            return self._split(written, "".join(lines))
        begin, count = found.first_line - 2, len(found.text.split("\n")) if found.text else 0
        located, problems = load(
            found.text, written, first_line=found.first_line, scalars_as_text=True
        )
        for problem in problems:
            self._note(problem.where, f"{problem.what}; the script's inputs are not known")
        if not isinstance(located.data, dict):
            located = Located(source=written, data={}, lines=located.lines)
        mark = _COMMENT.match(lines[begin])
        end = begin + count + 2
        return (
            "".join(lines[:begin]),
            located,
            mark["mark"] if mark else "#",
            "".join(lines[end:]),
        )

    def _with_shebang(self, written: str, before: str, after: str) -> tuple[str, bool]:
        probe = (before + after).encode()
        found, problems = read_script(probe, written)
        if found is not None and not any("'#!' line" in problem.what for problem in problems):
            return before, True
        if not before.startswith("#!") and not after.startswith("#!") and found is not None:
            self._note(f"{written}:1", "it has no '#!' line; '#!/bin/bash' was put in front")
            return f"#!/bin/bash\n{before}", True
        for problem in problems:
            self._note(problem.where, f"the script was left out: {problem.what}")
        return before, False

    def _rightlink_words(self, written: str, body: str, declared: set[str]) -> None:
        seen: set[str] = set()
        for found in _RIGHTLINK.finditer(body):
            word = found["variable"] or found["command"]
            if word in seen or word in declared:
                continue
            seen.add(word)
            kind = "variable" if found["variable"] else "command"
            self._note(written, f"the {kind} {word} is RightLink's; replace it in the script")

    def _write_scripts(self) -> None:
        for target, body in self._bodies.items():
            lines = [f"{body.mark} {line}".rstrip() for line in to_yaml(body.ours).splitlines()]
            header = "\n".join([f"{body.mark} ---", *lines, f"{body.mark} ...", ""])
            gap = "\n" if body.before and not body.before.endswith("\n") else ""
            self.files[target] = (body.before + gap + header + body.after).encode()

    # --- Inputs -----------------------------------------------------------------------------------

    def _script_inputs(self, header: Located, written: Any) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        if not isinstance(written, dict):
            self._note(header.where(("Inputs",)), "this is not a mapping of inputs")
            return found
        marks = 0
        for name, described in written.items():
            where = header.where(("Inputs", name))
            problem = name_problem(str(name))
            if problem:
                self._note(where, f"{problem}; the input was left out")
                continue
            said = described if isinstance(described, dict) else {}
            self._unknown(header, ("Inputs", name), said, _INPUT_KEYS)
            marks += "Category" in said or "Advanced" in said
            declared = self._declaration(where, str(name), said)
            found[str(name)] = declared
            known = self.inputs.setdefault(str(name), declared)
            self._settle(where, str(name), known, declared)
        if marks:
            what = f"'Category' and 'Advanced' of {marks} inputs order a form that is not here"
            self._note(header.where(("Inputs",)), what)
        return found

    def _declaration(self, where: str, name: str, described: Mapping[str, Any]) -> dict[str, Any]:
        ours: dict[str, Any] = {"type": "text"}
        if described.get("Input Type") == "array":
            ours["type"] = "list"
        if described.get("Description"):
            ours["description"] = " ".join(str(described["Description"]).split())
        if str(described.get("Required", "")).lower() not in ("true", "yes"):
            ours["required"] = False
        possible = [
            str(value).removeprefix("text:") for value in described.get("Possible Values") or []
        ]
        if possible:
            ours["of"] = list(dict.fromkeys(possible))
            if ours["type"] == "text":
                ours["type"] = "choice"
        if described.get("Default") is not None:
            ours |= self._value(where, name, str(described["Default"]), ours)
        return _without_strangers(ours)

    def _value(
        self, where: str, name: str, written: str, declared: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a value in RightScale's form says about an input: type and default."""
        kind, _, rest = written.partition(":")
        is_list = declared.get("type") == "list"
        if written in ("ignore", "inherit", "none", "unset"):
            return {"required": False}
        if written == "blank":
            return {"default": [] if is_list else "", "type": "list" if is_list else "text"}
        if kind == "cred" and rest:
            credential = re.sub(r"[^A-Za-z0-9_./-]+", "_", rest).lstrip("./-") or name
            if credential != rest:
                what = f"{name}: the credential {rest!r} has to be called {credential!r} here"
                self._note(where, what)
            return {"type": "secret", "default": f"cred:{credential}"}
        if kind == "key":
            self._note(
                where,
                f"{name}: the SSH key {rest!r} is not carried over; store it as a credential and "
                "give it as cred:NAME",
            )
            return {"type": "secret"}
        if kind == "env":
            return self._environment_value(where, name, rest)
        if kind == "array":
            return self._widen(where, name, self._array_value(where, name, rest), declared)
        if kind != "text" or ":" not in written:
            rest = written
            self._note(where, f"{name}: the value {written!r} has no type in front; read as text")
        if is_list:
            found = {"default": [rest] if rest else []}
            return self._widen(where, name, found, declared)
        if declared.get("type") in ("secret", "env"):
            self._note(where, f"{name}: it was {declared['type']} in a script and is text here")
            return {"type": "text", "default": rest}
        if declared.get("of") and rest not in declared["of"]:
            if not rest:
                return {}
            self._note(where, f"{name}: {rest!r} is none of the possible values and was added")
            return {"default": rest, "of": [*declared["of"], rest]}
        return {"default": rest}

    def _environment_value(self, where: str, name: str, rest: str) -> dict[str, Any]:
        server, _, variable = rest.rpartition(":")
        attribute = _ATTRIBUTES.get(variable)
        if server and attribute:
            return {"type": "env", "default": f"{_slug(server)}.{attribute}"}
        if server:
            what = f"{name}: {variable!r} of server {server!r} has no counterpart; "
            self._note(where, what + f"publish it as an output and write {_slug(server)}.outputs.…")
        else:
            what = f"{name}: env:{rest} is a variable RightLink gives a server about itself; "
            self._note(where, what + "there is no default now")
        return {"required": False}

    def _array_value(self, where: str, name: str, rest: str) -> dict[str, Any]:
        try:
            items = json.loads(rest)
        except (ValueError, RecursionError):
            items = None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            self._note(where, f"{name}: array:{rest} is not a list of values; it was left out")
            return {"type": "list"}
        texts: list[str] = []
        for item in items:
            kind, mark, value = item.partition(":")
            if mark and kind != "text":
                self._note(where, f"{name}: {item!r} in a list is not text and was left out")
            elif not (value if mark else item):
                self._note(where, f"{name}: an empty item was left out of the list")
            else:
                texts.append(value if mark else item)
        return {"type": "list", "default": texts}

    def _widen(
        self, where: str, name: str, found: dict[str, Any], declared: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A list value with its items among those that are allowed."""
        allowed = declared.get("of")
        fresh = [item for item in found.get("default", []) if allowed and item not in allowed]
        for item in fresh:
            self._note(where, f"{name}: {item!r} is none of the possible values and was added")
        return {**found, "of": [*allowed, *dict.fromkeys(fresh)]} if allowed and fresh else found

    def _settle(
        self, where: str, name: str, known: dict[str, Any], declared: dict[str, Any]
    ) -> None:
        """Where scripts disagree the first one counts, written into the template."""
        for part in ("type", "default", "of", "required"):
            # What says nothing about it is required.
            unsaid = True if part == "required" else None
            here, earlier = declared.get(part, unsaid), known.get(part, unsaid)
            if here is not None and earlier is not None and here != earlier:
                what = f"{name}: {part!r} is {here!r} here and {earlier!r} in an earlier script; "
                self._note(where, what + "the template now says the latter")
                self.overrides.setdefault(name, {})[part] = earlier

    def _template_inputs(self, located: Located, written: Any) -> None:
        if not isinstance(written, dict):
            self._note(located.where(("Inputs",)), "this is not a mapping of names to values")
            return
        for name, given in written.items():
            where = located.where(("Inputs", name))
            problem = name_problem(str(name))
            if problem:
                self._note(where, f"{problem}; the value was left out")
                continue
            # right_st once wrote whole declarations here.
            value = given.get("Default") if isinstance(given, dict) else given
            if value is None:
                continue
            known = self.inputs.get(str(name))
            found = self._value(where, str(name), str(value), known or {"type": "text"})
            if known is None:
                self._note(where, f"{name}: no imported script declares it; kept for later ones")
                found = {"type": "text", **found}
            self.overrides.setdefault(str(name), {}).update(found)

    def _settled_inputs(self) -> dict[str, dict[str, Any]]:
        """What the template itself says; scripts' types are made to fit it."""
        for name, base in self.inputs.items():
            kind = self.overrides.get(name, {}).pop("type", base["type"])
            for body in self._bodies.values():
                declared = body.ours.get("inputs", {}).get(name)
                if declared is not None and declared["type"] != kind:
                    # A default or choices of another type mean nothing to the new one.
                    for part in ("default", "of"):
                        declared.pop(part, None)
                    declared["type"] = kind
        return {name: said for name, said in sorted(self.overrides.items()) if said}

    # --- Images -----------------------------------------------------------------------------------

    def _images(self, located: Located, written: Any) -> str | None:
        chosen: str | None = None
        if not isinstance(written, list):
            self._note(located.where(("MultiCloudImages",)), "this is not a list of images")
            written = []
        for index, item in enumerate(written):
            where = located.where(("MultiCloudImages", index))
            source: Located = located
            path: tuple[str | int, ...] = ("MultiCloudImages", index)
            described = item
            if isinstance(item, str):
                file = self.path.parent / item
                if not file.is_file():
                    self._note(where, f"there is no file {item!r} beside the ServerTemplate")
                    continue
                source, problems = self._load(file)
                path, described = (), source.data
                for problem in problems:
                    self._note(problem.where, problem.what)
            name = self._image(where, source, path, described)
            if name and chosen is None:
                chosen = name
            elif name:
                self._note(
                    where, f"image map {name} was written; a template has one, and its is {chosen}"
                )
        if chosen is None:
            what = "no image came along; set 'image' in template.yaml before launching"
            self._note(located.where(("MultiCloudImages",)), what)
        return chosen

    def _image(
        self, where: str, located: Located, path: tuple[str | int, ...], item: Any
    ) -> str | None:
        if not isinstance(item, dict):
            self._note(where, "this is not a MultiCloudImage")
            return None
        self._unknown(located, path, item, _MCI_KEYS)
        settings = item.get("Settings")
        if not isinstance(settings, list) or not settings:
            title = item.get("Name") or item.get("Href") or "this"
            self._note(
                where,
                f"MultiCloudImage {title!r} is a reference into a RightScale account; download it "
                "with 'right_st st download --mci-settings'",
            )
            return None
        title = str(item.get("Name") or "image")
        for tag in item.get("Tags") or []:
            self._note(where, f"tag {tag!r} of {title} is for RightLink and was left out")
        word = next((word for word in _USERS if word in title.lower()), None)
        user = _USERS[word] if word else "root"
        if word is None:
            what = f"the login account of {title} is not known; check 'user: {user}' in its map"
            self._note(where, what)
        entries: dict[str, dict[str, dict[str, Any]]] = {}
        for number, setting in enumerate(settings):
            place = located.where((*path, "Settings", number))
            if not isinstance(setting, dict) or not setting.get("Cloud"):
                self._note(place, "a setting without 'Cloud' says nothing")
                continue
            self._unknown(located, (*path, "Settings", number), setting, _SETTING_KEYS)
            if not setting.get("Image"):
                self._note(place, f"there is no image for {setting['Cloud']}; it was left out")
                continue
            if setting.get("User Data"):
                self._note(place, "'User Data' is not carried over; boot scripts do its work")
            cloud, region = _cloud(str(setting["Cloud"]))
            arches = entries.setdefault(cloud, {}).setdefault(region, {})
            arch = "arm64" if re.search(r"arm64|aarch64", title.lower()) else "x86_64"
            if arch in arches:
                self._note(place, f"a second image for {setting['Cloud']} was left out")
                continue
            choice = {"image": str(setting["Image"])}
            if setting.get("Instance Type"):
                choice["instance_type"] = str(setting["Instance Type"])
            choice["user"] = user
            if word == "windows":
                choice |= {"user_data_format": "powershell", "os": "windows"}
            arches[arch] = choice
        entries = {cloud: found for cloud, found in entries.items() if any(found.values())}
        if not entries:
            return None
        name = _slug(title)
        document: dict[str, Any] = {"schema": "slipway-image-map/1", "name": name}
        if item.get("Description"):
            document["description"] = str(item["Description"])
        document["entries"] = entries
        file = f"{IMAGES_DIR}/{name}.yaml"
        content = to_yaml(document).encode()
        present = self.templates_dir / file
        if present.exists() and present.read_bytes() != content:
            raise Conflict(f"there is an image map {name!r} already; nothing was written")
        self._maps[file] = content
        self.carried.append((f"MultiCloudImage {title}", file))
        return name

    # --- The rest ---------------------------------------------------------------------------------

    def _alert(self, located: Located, index: int, alert: Any) -> None:
        described = alert if isinstance(alert, dict) else {}
        title, clause = described.get("Name", alert), described.get("Clause", "")
        what = f"alert {title!r} ({clause}) is for a monitoring system, which this is not"
        self._note(located.where(("Alerts", index)), what)

    def _load(self, file: Path) -> tuple[Located, list[Problem]]:
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            what = f"byte {error.start} is not UTF-8"
            return Located(source=file.name, data=None), [Problem(where=file.name, what=what)]
        return load(text, file.name, scalars_as_text=True)

    def _unknown(
        self,
        located: Located,
        path: Sequence[str | int],
        data: Mapping[str, Any],
        known: Iterable[str],
    ) -> None:
        for key in data:
            if key not in set(known):
                self._note(located.where((*path, key)), f"{key!r} is not known and was left out")

    def _note(self, where: str, what: str) -> None:
        self.notes.append(NotCarried(where=where, what=what))


def _without_strangers(declared: dict[str, Any]) -> dict[str, Any]:
    """A declaration without what its final type does not have."""
    if declared["type"] not in ("choice", "list"):
        declared.pop("of", None)
    return declared


def _cloud(written: str) -> tuple[str, str]:
    """``EC2 us-east-1`` → ec2, us-east-1; another cloud's name → that, any region."""
    found = re.fullmatch(r"(?:EC2|AWS)[ -](?P<region>[a-z]{2}(?:-[a-z]+)+-[0-9])", written)
    if found:
        return "ec2", found["region"]
    return _slug(written), "*"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100] or "imported"


def _file_name(written: str) -> str:
    pure = PurePosixPath(written.replace("\\", "/"))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", pure.stem).strip("-.") or "script"
    return f"{stem}{pure.suffix}"
