"""What the benchmarks of launches share: a template on the local cloud, and what processes cost."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

_TEMPLATE = """\
schema: slipway/1
name: {name}
image: {image}
boot: [scripts/one.sh, scripts/two.sh]
"""
_IMAGE_MAP = """\
schema: slipway-image-map/1
name: {image}
entries:
  local: {{"*": {{x86_64: {{image: {image}, instance_type: local.small, user: admin}}}}}}
"""
_SCRIPT = b'#!/bin/sh\necho configured; echo done > "$HOME/%s"\n'

#: What a launch runs, by file name.
SCRIPTS = {"one.sh": _SCRIPT % b"one", "two.sh": _SCRIPT % b"two"}


def write_template(directory: Path, name: str, image: str) -> None:
    """A template with two small scripts, for machines made from this image of the local cloud."""
    scripts = directory / name / "scripts"
    scripts.mkdir(parents=True)
    images = directory / "images"
    images.mkdir(exist_ok=True)
    (images / f"{image}.yaml").write_text(_IMAGE_MAP.format(image=image))
    (directory / name / "template.yaml").write_text(_TEMPLATE.format(name=name, image=image))
    for script, content in SCRIPTS.items():
        (scripts / script).write_bytes(content)


def cpu_s(*processes: psutil.Process) -> float:
    """CPU seconds of these processes and of all they have started, those included that are over and
    were waited for."""
    found = 0.0
    for process in processes:
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += sum(each.cpu_times()[:4])
    return found
