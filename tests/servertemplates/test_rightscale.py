"""Importing what RightScale's right_st tool downloads."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.errors import Conflict, InvalidInput, NotFound
from slipway.servertemplates.rightscale import import_rightscale
from tests.servertemplates.conftest import Templates

HERE = Path(__file__).parent / "rightscale"

#: Everything of the fixture that has no counterpart, by words of its sentence.
NOT_CARRIED = [
    "'RL10 Linux Setup Hostname' of RightScale, revision 6 is a reference into a RightScale",
    "'My Local RightScript', revision 3 is a reference",
    "scripts/install.sh is in Boot twice",
    "the script was left out: 'ruby' is not an interpreter Slipway runs",
    "there is no file 'scripts/missing.sh'",
    "attachment 'shop.tar.gz' is not shipped",
    "the variable RS_ATTACH_DIR is RightLink's",
    "the variable RS_SELF_HREF is RightLink's",
    "the command rsc is RightLink's",
    "the metadata has no '# ---' before it",
    "it has no '#!' line; '#!/bin/bash' was put in front",
    "'Category' and 'Advanced' of 1 inputs",
    "'Category' and 'Advanced' of 7 inputs",
    "'Category' and 'Advanced' of 2 inputs",
    "INSTANCE_UUID: env:RS_INSTANCE_UUID is a variable RightLink gives a server about itself",
    "DEPLOY_KEY: the SSH key 'shop-deploy:1' is not carried over",
    "UNUSED: no imported script declares it",
    "'rs-base/ntp' is not a name a script can see",
    "'Ubuntu_14.04_x64' is a reference into a RightScale account",
    "'/api/multi_cloud_images/403042003' is a reference into a RightScale account",
    "tag 'rs_agent:type=right_link_lite' of Shop Ubuntu 16.04",
    "'User Data' is not carried over",
    "there is no image for AzureRM West US",
    "image map windows-server-2012r2-x64 was written; a template has one",
    "alert 'CPU Scale Down' (If cpu-0/cpu-idle.value > '50' for 3 minutes Then shrink",
    "alert 'Low memory warning'",
]


def test_an_import_is_a_template(templates: Templates) -> None:
    """The imported template is valid as it is, with scripts, inputs and images carried over."""
    report = import_rightscale(HERE / "app_server.yml", templates.directory)
    assert report.name == "shop-application-server"
    assert templates.problems(report.name) == []
    found = templates.resolve(report.name)
    assert found.description.startswith("Serves the shop.")
    assert [script.key for script in found.boot] == ["10-sys-timezone-set", "20-install"]
    assert sorted(found.operational) == ["install-the-shop", "run-puppet-agent"]
    assert [script.key for script in found.decommission] == ["decommission-10-drain"]
    install = found.boot[1]
    assert (install.name, install.packages) == (
        "Install the shop",
        ("apache2", "libapache2-mod-php"),
    )
    inputs = {
        name: (declared.type, declared.default, declared.is_required)
        for name, declared in found.inputs.items()
    }
    assert inputs == {
        "APACHE_MPM": ("choice", "prefork", True),
        "BANNER": ("text", "", False),
        "DB_HOST": ("env", "shop-db-1.private_ip", True),
        "DB_PASSWORD": ("secret", "cred:SHOP_DB_PASSWORD", True),
        "DEPLOY_KEY": ("secret", None, True),
        "INSTANCE_UUID": ("text", None, False),
        "MIRRORS": ("list", ["mirror-1", "mirror-2"], False),
        "PUPPET_SERVER": ("text", None, False),
        "TIMEZONE": ("choice", "UTC", False),
        "UNUSED": ("text", None, False),
    }
    assert found.inputs["TIMEZONE"].of == ("UTC", "Europe/Berlin", "US/Pacific")
    choice = found.image_choice("ec2", "eu-west-1")
    assert (choice.image, choice.instance_type, choice.user) == (
        "ami-b1841cc6",
        "m3.medium",
        "ubuntu",
    )
    assert found.image_choice("google", "anywhere").image == "projects/shop/global/images/shop"


def test_nothing_is_dropped_without_a_word(templates: Templates) -> None:
    """Each thing that has no counterpart is in the report, with its place."""
    report = import_rightscale(HERE / "app_server.yml", templates.directory)
    said = [str(note) for note in report.not_carried]
    for words in NOT_CARRIED:
        assert any(words in sentence for sentence in said), (words, said)
    alert = next(note for note in report.not_carried if "CPU Scale Down" in note.what)
    lines = (HERE / "app_server.yml").read_text().splitlines()
    number = 1 + lines.index("- Name: CPU Scale Down")
    assert alert.where == f"app_server.yml:{number}: Alerts[0]"
    # Two scripts disagree about one input in three ways: type stays, default and required differ.
    disagree = [words for words in said if "APACHE_MPM: " in words]
    assert len(said) == len(NOT_CARRIED) + len(disagree) + 1, "\n".join(said)


def test_the_body_of_a_script_is_not_touched(templates: Templates) -> None:
    """Only the header is rewritten; what the script does stays byte for byte."""
    import_rightscale(HERE / "app_server.yml", templates.directory, name="shop")
    before = (HERE / "scripts/install.sh").read_text()
    after = (templates.directory / "shop/scripts/install.sh").read_text()
    assert after.partition("# ...\n")[2] == before.partition("# ...\n")[2]
    assert after.startswith("#!/bin/bash -e\n\n# ---\n# name: Install the shop\n")
    assert "RightScript Name" not in after


def test_an_import_never_overwrites(templates: Templates) -> None:
    """Importing over a template or another image map changes nothing."""
    templates.write("shop")
    with pytest.raises(Conflict, match="shop"):
        import_rightscale(HERE / "app_server.yml", templates.directory, name="shop")
    templates.image("other", name="shop-ubuntu-16-04")
    with pytest.raises(Conflict, match="image map 'shop-ubuntu-16-04'"):
        import_rightscale(HERE / "app_server.yml", templates.directory, name="new")
    assert not (templates.directory / "new").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- a", "not a ServerTemplate's YAML"),
        ("Description: x", "'Name' is missing"),
        ("Name: [", "not valid YAML"),
        (b"Name: \xff", "not UTF-8"),
    ],
)
def test_what_is_no_servertemplate_is_refused(
    templates: Templates, text: str | bytes, what: str
) -> None:
    """Another file is refused with a sentence."""
    file = templates.file("st.yml", text)
    with pytest.raises(InvalidInput, match=what):
        import_rightscale(file, templates.directory)
    with pytest.raises(NotFound):
        import_rightscale(templates.directory / "nothing.yml", templates.directory)


@pytest.mark.parametrize(
    ("default", "wanted"),
    [
        ("text:a:b", ("text", "a:b")),
        ("text:", ("text", "")),
        ("cred:NAME", ("secret", "cred:NAME")),
        ("env:db:PUBLIC_IP", ("env", "db.public_ip")),
        ("env:My DB 1:RS_SERVER_NAME", ("env", "my-db-1.name")),
        ("env:db:STRANGE", ("text", None)),
        ("ignore", ("text", None)),
        ("inherit", ("text", None)),
        ("blank", ("text", "")),
        ("no", ("text", "no")),
        ('array:["text:a","text:b"]', ("list", ["a", "b"])),
        ('array:["text:a","cred:b"]', ("list", ["a"])),
        ("array:nonsense", ("list", None)),
    ],
)
def test_values_in_rightscales_form(
    templates: Templates, default: str, wanted: tuple[str, object]
) -> None:
    """Every form of an input's value becomes the type and default that means the same."""
    templates.file("in/st.yml", "Name: x\nRightScripts: {Boot: [a.sh]}\n")
    templates.file(
        "in/a.sh",
        "#!/bin/bash\n# ---\n# RightScript Name: A\n"
        f"# Inputs:\n#   X:\n#     Default: '{default}'\n"
        "# ...\n",
    )
    report = import_rightscale(templates.directory / "in/st.yml", templates.directory)
    assert templates.problems("x") == []
    found = templates.resolve("x").inputs["X"]
    assert (found.type, found.default) == wanted
    assert any("no image came along" in note.what for note in report.not_carried)
