"""One template's directory: every problem at once, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import InvalidInput, NotFound
from slipway.servertemplates import choose_image
from tests.servertemplates.conftest import Templates, refusal, script

WRONG = """\
schema: slipway/2
name: web
imagee: debian-12
include: [base, bse, nothing-like-it]
freeze: 2026-07-01
settings: {instance_type: 5, root_disk: 8, tags: {"slipway:launch": x}}
inputs:
  DB_HOST: {type: texxt}
  COLOUR: {type: choice, of: [red, blue], default: bleu}
  PASSWORD: {type: secret, default: hunter2}
  PATH: {type: text}
  DEBUG: {type: bool, default: no}
  VERSION: {type: text, default: 1.10}
  VERSION: {type: text}
  PEER: {type: env, from: db-1.privat_ip}
  COUNT: {type: int, pattern: x, min: 3, max: 1}
  RE: {type: text, pattern: "["}
  PORT: {type: int}
  port: {type: int}
ready: {linux: [ssh, cloud-int]}
clock: {max_offset_ms: 0.5}
health: [{htp: 1}, {tcp: 99999}, {http: status}]
boot: [scripts/none.sh, 7, ../x.sh, scripts/ok.sh, scripts/ok.sh]
operational: {"Rotate Logs": scripts/ok.sh}
"""

#: Line → what has to be said about it.
EXPECTED = {
    1: ["schema: 'slipway/2' is not a template schema; did you mean 'slipway/1'?"],
    3: ["imagee: 'imagee' is not a field here; did you mean 'image'?"],
    4: [
        "include[1]: there is no template 'bse' to include; did you mean 'base'?",
        "include[2]: there is no template 'nothing-like-it' to include (there are base, web)",
    ],
    5: ["freeze: 2026-07-01 is in the future; the newest possible date is 2026-06-30"],
    6: [
        'settings.instance_type: 5 is not text; in quotes it is text: "5"',
        "settings.root_disk: 'root_disk' is not a field here; did you mean 'root_disk_gib'?",
        "settings.tags.slipway:launch: 'slipway:launch': tags that begin with 'slipway:'",
    ],
    8: ["inputs.DB_HOST.type: 'texxt' is not an input type; did you mean 'text'? (allowed: text,"],
    9: [
        "inputs.COLOUR.default: 'bleu' is not one of the choices; did you mean 'blue'? (red, blue)"
    ],
    10: ["inputs.PASSWORD.default: a secret does not stand in a template"],
    11: ["inputs.PATH: 'PATH' is a name the script's own surroundings need"],
    12: ["inputs.DEBUG.default: 'no' is not true or false"],
    13: ["inputs.VERSION.default: 1.10 is a number that may lose digits"],
    14: ["inputs.VERSION: the key 'VERSION' is here twice, first on line 13"],
    15: ["inputs.PEER.from: 'db-1.privat_ip' is not SERVER.ATTRIBUTE; did you mean 'private_ip'?"],
    16: [
        "inputs.COUNT.pattern: 'pattern' goes with text and list inputs, this one is int",
        "inputs.COUNT.min: min 3 is greater than max 1",
    ],
    17: ["inputs.RE.pattern: '[' is not a regular expression"],
    19: ["inputs.port: 'port' and 'PORT' are one name to Windows"],
    20: ["ready.linux[1]: 'cloud-int' is not a signal of linux; did you mean 'cloud-init'?"],
    21: ["clock.max_offset_ms: 0.5 is a number that may lose digits"],
    22: [
        "health[0]: {'htp': 1} is not a check; write one of 'http: PATH'",
        "health[1].tcp: 99999 is more than the greatest value allowed, 65535",
        "health[2].http: 'status' is not of the right form (a path that begins with '/')",
    ],
    23: [
        "boot[0]: there is no file 'scripts/none.sh' in web/",
        "boot[1]: 7 is not text",
        "boot[2]: '../x.sh' does not stay in the template's directory",
        "boot[4]: scripts/ok.sh is in this list already; a script runs once",
    ],
    24: ["operational.Rotate Logs: 'Rotate Logs' is not of the right form (small letters"],
}


def test_everything_that_is_wrong_is_said_at_once(templates: Templates) -> None:
    """One refusal names every problem, in the order of the file, each with its line."""
    templates.image().write("base")
    templates.write("web", WRONG, ok=script())
    with pytest.raises(InvalidInput) as error:
        templates.resolve("web")
    found = refusal(error)
    for line, sentences in EXPECTED.items():
        for sentence in sentences:
            wanted = f"web/template.yaml:{line}: {sentence}"
            assert any(problem.startswith(wanted) for problem in found), (wanted, found)
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == sorted(lines)
    assert "hunter2" not in "\n".join(found)
    # clock.max_offset_ms is said twice: not a fraction, and then not a whole number.
    assert len(found) == sum(map(len, EXPECTED.values())) + 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("schema: [", "web/template.yaml:1: this is not valid YAML"),
        ("", "web/template.yaml: this is empty; it needs at least 'schema' and 'name'"),
        ("- a", "web/template.yaml:1: this is a list, not a mapping"),
        ("schema: slipway/1\nname: other", "web/template.yaml:2: name: 'other' is not the name of"),
        ("schema: slipway/1", "web/template.yaml:1: name: 'name' is missing here"),
        (
            "schema: slipway/1\nname: web\nboot: x.sh",
            "web/template.yaml:3: boot: 'x.sh' is not a l",
        ),
        (
            "schema: slipway/1\nname: web\nfreeze: 2026-02-30",
            "web/template.yaml:3: freeze: '2026-02",
        ),
        ("schema: slipway/1\nname: web\nfreeze: enviroment", "'environment'; did you mean"),
        ("schema: slipway/1\nname: web\nimage: debain-12", "there is no image map 'debain-12'"),
    ],
)
def test_a_broken_file_is_a_sentence(templates: Templates, text: str, sentence: str) -> None:
    """Whatever a template.yaml holds, what comes out is a sentence with a place."""
    templates.file("web/template.yaml", text)
    problems = templates.problems("web")
    assert any(sentence in problem for problem in problems), problems


def test_a_file_that_is_not_utf8_is_a_sentence(templates: Templates) -> None:
    """Bytes that are not UTF-8 are named by position and line."""
    templates.file("web/template.yaml", b"schema: slipway/1\nname: w\xe9b\n")
    assert templates.problems("web") == [
        "web/template.yaml:2: byte 25 is not UTF-8; save the file as UTF-8"
    ]


def test_a_link_out_of_the_directory_is_refused(templates: Templates, tmp_path: Path) -> None:
    """A script is a file of the template, not a way to read others."""
    secret = tmp_path / "secret.sh"
    secret.write_text("#!/bin/sh\n")
    templates.write("web", "boot: [scripts/x.sh]\n")
    (templates.directory / "web/scripts").mkdir()
    (templates.directory / "web/scripts/x.sh").symlink_to(secret)
    assert "is a link out of the template's directory" in templates.problems("web")[0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "echo hi\n",
            "scripts/a.sh:1: the first line is not a '#!' line; write for example #!/bin",
        ),
        ("#!/bin/bsh\n", "'bsh' is not an interpreter Slipway runs; did you mean 'bash'?"),
        ("#!/usr/bin/ruby\n", "'ruby' is not an interpreter Slipway runs (it runs bash,"),
        (b"\xef\xbb\xbf#!/bin/bash\n", "a byte order mark stands before '#!'"),
        ("#!/bin/bash\r\necho\r\n", "scripts/a.sh:1: this line ends the Windows way (CR LF)"),
        ("#!/bin/bash\n# ---\n# name: x\n", "the header that begins on line 2 has no '# ...'"),
        (
            script("nmae: x"),
            "scripts/a.sh:3: nmae: 'nmae' is not a field here; did you mean 'name'?",
        ),
        (script("timeout: soon"), "scripts/a.sh:3: timeout: 'soon' is not a time; write seconds"),
        (script("timeout: 100h"), "timeout: 360000 is more than the greatest value allowed, 86400"),
        (script("retry_safe: no"), "retry_safe: 'no' is not true or false; only true and false"),
        (script("inputs:", "  PORT: {type: intt}"), "scripts/a.sh:4: inputs.PORT.type: 'intt' is"),
        (script("inputs:", "  P: {type: int, default: x}"), "inputs.P.default: 'x' is not a whole"),
        (
            script("inputs: [GREETING]"),
            "scripts/a.sh:3: inputs.GREETING: GREETING is used here and",
        ),
        (script("name: [x"), "scripts/a.sh:3: this is not valid YAML"),
    ],
)
def test_a_broken_script_is_a_sentence(
    templates: Templates, content: str | bytes, sentence: str
) -> None:
    """Scripts are checked like templates, and their header's lines counted in the script."""
    templates.write("web", "boot: [scripts/a.sh]\n", a=content)
    problems = templates.problems("web")
    assert len(problems) == 1, problems
    assert f"web/{sentence}" in problems[0] or sentence in problems[0]


@pytest.mark.parametrize(
    ("file", "first", "kind"),
    [
        ("a.sh", "#!/bin/bash -e", "bash"),
        ("a.sh", "#! /usr/bin/sudo /bin/bash", "bash"),
        ("a.sh", "#!/usr/bin/env -S bash -e", "bash"),
        ("a.sh", "#!/bin/dash", "sh"),
        ("a", "#!/usr/bin/env python3", "python"),
        ("a.py", "#!/usr/bin/python3.11", "python"),
        ("a.ps1", "Write-Output hi", "powershell"),
        ("a.ps1", "#!/usr/bin/env pwsh", "powershell"),
    ],
)
def test_the_kind_of_a_script(templates: Templates, file: str, first: str, kind: str) -> None:
    """The '#!' line says what runs a script; a .ps1 needs none."""
    templates.write("web", f"boot: [{file}]\n").file(f"web/{file}", f"{first}\n")
    assert templates.resolve("web").boot[0].kind == kind


@pytest.mark.parametrize("mark", ["#", "//", "--"])
def test_header_in_any_comment(templates: Templates, mark: str) -> None:
    """The header may be in the comments of any language."""
    text = f"#!/bin/bash\n{mark} ---\n{mark} name: Title\n{mark} timeout: 10m\n{mark} ...\n"
    resolved = templates.write("web", "boot: [scripts/a.sh]\n", a=text).resolve("web")
    assert (resolved.boot[0].name, resolved.boot[0].timeout_s) == ("Title", 600)


def test_image_map_problems_have_lines(templates: Templates) -> None:
    """An image map is checked as strictly as a template."""
    templates.write("web", "image: debian-12\n").image(
        "schema: slipway-image-map/1\nname: debian-12\nentries:\n  ec2:\n    '*':\n"
        "      amd64: {image: x}\n      arm64: {imag: x}\n"
    )
    problems = templates.problems("web")
    assert "images/debian-12.yaml:6: entries.ec2.*.amd64: 'amd64' is not a key" in problems[0]
    assert any("'imag' is not a field here; did you mean 'image'?" in each for each in problems)
    assert any(each.endswith("'image' is missing here") for each in problems)


def test_image_choice(templates: Templates) -> None:
    """A region's own entry wins over '*', the template's instance type over the map's, and what
    is missing is answered with what there is."""
    templates.image(
        "schema: slipway-image-map/1\nname: debian-12\nentries:\n  ec2:\n    '*':\n"
        "      x86_64: {image: any, instance_type: t3.nano}\n      arm64: {image: arm}\n"
        "    eu-west-1:\n      x86_64: {image: irish, instance_type: t3.nano}\n"
    )
    plain = templates.write("a", "image: debian-12\n").resolve("a")
    sized = templates.write(
        "b", "image: debian-12\nsettings: {instance_type: m5.large, arch: arm64}\n"
    ).resolve("b")
    assert plain.image_choice("ec2", "us-east-1").image == "any"
    assert plain.image_choice("ec2", "eu-west-1").image == "irish"
    assert plain.image_choice("ec2", "eu-west-1", "arm64").image == "arm"
    assert sized.image_choice("ec2", "eu-west-1").image == "arm"
    assert sized.image_choice("ec2", "eu-west-1").instance_type == "m5.large"
    assert plain.image is not None
    with pytest.raises(NotFound, match=r"ec1/x/x86_64; did you mean 'ec2'\? \(it has ec2/\*/x86"):
        choose_image(plain.image, "ec1", "x")
    with pytest.raises(InvalidInput, match="has no image"):
        templates.write("c").resolve("c").image_choice("ec2", "x")
