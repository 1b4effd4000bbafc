"""What Slipway is run with elsewhere: compose, systemd and Kubernetes files that fit the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from slipway.cli import app
from slipway.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deployments" / "compose"
SYSTEMD = ROOT / "deployments" / "systemd"
KUBERNETES = ROOT / "deployments" / "kubernetes"


def _compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return found


def _objects() -> list[dict[str, Any]]:
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [each for name in listed for each in yaml.safe_load_all((KUBERNETES / name).read_text())]


def _containers() -> list[dict[str, Any]]:
    return [
        container
        for each in _objects()
        if each["kind"] in ("Deployment", "Job")
        for container in each["spec"]["template"]["spec"]["containers"]
    ]


def test_the_compose_file_is_valid() -> None:
    """It follows the compose specification's own schema."""
    schema = ["--builtin-schema", "vendor.compose-spec"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, COMPOSE / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_asks_for_what_it_needs() -> None:
    """Every variable without a default is in the example of the .env file, and nothing else is."""
    used = set(re.findall(r"\$\{(\w+)(?::\?[^}]*)?\}", (COMPOSE / "compose.yaml").read_text()))
    given = re.findall(r"^(\w+)=", (COMPOSE / "env.example").read_text(), flags=re.MULTILINE)
    assert used == set(given)


def test_the_compose_file_mounts_files_that_exist() -> None:
    """A bind mount of a missing file would become an empty directory."""
    mounts = [
        volume.partition(":")[0]
        for service in _compose()["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]
    assert mounts
    assert [mount for mount in mounts if not (COMPOSE / mount).is_file()] == []


@pytest.mark.parametrize("unit", sorted(path.name for path in SYSTEMD.iterdir()))
def test_systemd_takes_the_units(unit: str, tmp_path: Path) -> None:
    """systemd itself finds nothing to complain about but what is not installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the units are not verified")
    text = (SYSTEMD / unit).read_text()
    # Templates are verified as an instance; the programs of another machine as this one's.
    copy = tmp_path / unit.replace("@.", "@1.")
    copy.write_text(re.sub(r"/opt/slipway/bin/\S+", "/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_kubernetes_takes_the_objects() -> None:
    """Every listed object follows Kubernetes' own schema, without unknown fields."""
    found = _objects()
    assert {each["kind"] for each in found} >= {"Deployment", "Service", "Job", "NetworkPolicy"}
    for each in found:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_every_file_of_the_base_is_listed() -> None:
    """A file that kustomize does not list would be left out without a word."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    files = sorted(path.name for path in KUBERNETES.glob("*.yaml"))
    assert sorted([*listed, "kustomization.yaml"]) == files


def test_the_objects_fit_together() -> None:
    """Selectors select pods, references name config maps that exist, and pods may not gain
    rights."""
    found = _objects()
    names = {(each["kind"], each["metadata"]["name"]) for each in found}
    labels = [
        each["spec"]["template"]["metadata"]["labels"] for each in found if "template" in
        each.get("spec", {})
    ]  # fmt: skip
    for each in found:
        if each["kind"] in ("Service", "PodDisruptionBudget"):
            selector = each["spec"]["selector"]
            assert selector.get("matchLabels", selector) in labels, each["metadata"]["name"]
        if each["kind"] in ("Deployment", "Job"):
            pod = each["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert ("ServiceAccount", pod["serviceAccountName"]) in names
    for container in _containers():
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        for source in container["envFrom"]:
            if "configMapRef" in source:
                assert ("ConfigMap", source["configMapRef"]["name"]) in names


def test_settings_are_spelled_right() -> None:
    """Every SLIPWAY_ variable in these files is a setting that exists."""
    known = {f"SLIPWAY_{name.upper()}" for name in Settings.model_fields}
    # Read by the files themselves.
    known |= {"SLIPWAY_HOST", "SLIPWAY_VERSION", "SLIPWAY_API_HOST"}
    used: set[str] = set()
    for folder in (COMPOSE, SYSTEMD, KUBERNETES):
        for path in folder.iterdir():
            used |= set(re.findall(r"\bSLIPWAY_[A-Z_]+[A-Z]\b", path.read_text()))
    assert used
    assert used - known == set()


def test_commands_exist() -> None:
    """What the files have `slipway` do is a command of it."""
    lines = [service.get("command", []) for service in _compose()["services"].values()]
    lines += [container["command"] for container in _containers()]
    asked = [line[1:] for line in lines if line[:1] == ["slipway"]]
    units = [re.search(r"^ExecStart=(.*)$", p.read_text(), re.MULTILINE) for p in SYSTEMD.iterdir()]
    for unit in units:
        assert unit is not None
        program, *rest = unit[1].split()
        if program.endswith("/slipway"):
            asked.append(rest)
    assert len(asked) >= 4
    for words in asked:
        command: Any = get_command(app)
        for word in words:
            if not hasattr(command, "commands"):
                break
            assert word in command.commands, f"slipway {' '.join(words)}"
            command = command.commands[word]
