"""A new template to begin with: small, commented, and valid as it is."""

from __future__ import annotations

import re
from pathlib import Path

from slipway.errors import Conflict, InvalidInput, Problem
from slipway.servertemplates.library import IMAGES_DIR, TEMPLATE_FILE, Library

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}\Z")

_TEMPLATE = """\
schema: slipway/1
name: {name}
description: What a server made from this is for.

# Layers come first, in this order; what is said here wins over them. A version can be
# pinned: base-linux@v3, base-linux@r4.
# include: [base-linux]

# Which image in which cloud and region: {images}/{image}.yaml.
image: {image}

# Unset: the image map's instance type, the image's own disk.
# settings: {{instance_type: t3.small, root_disk_gib: 20}}

# Package repositories as of a date, so that next year's launch installs what today's does;
# 'environment' takes the date of the environment it is launched in.
# freeze: 2026-01-31

# Inputs reach a script as environment variables, when its header names them. What a script
# declares itself need not be repeated here.
inputs:
  GREETING:
    default: Good morning    # over the default in scripts/install.sh

# Before a script runs, the server has shown these signals and its clock is right.
ready: {{linux: [ssh, cloud-init]}}
clock: {{max_offset_ms: 500}}

boot:
  - scripts/install.sh

# Run on request, by these names.
operational:
  show-greeting: scripts/show.sh

# The server is operational when all of these hold: http, tcp or a script.
health:
  - script: scripts/show.sh
"""

_INSTALL = """\
#!/bin/bash
# ---
# name: Install {name}
# description: Replace this by what the server needs.
# inputs:
#   GREETING:
#     type: text
#     description: What the server says.
#     default: Hello
#     min: 1
# packages: []
# timeout: 10m
# retry_safe: true       # may be started again after a failure
# ...
set -euo pipefail

mkdir -p "${{HOME}}/{name}"
printf '%s\\n' "${{GREETING}}" >"${{HOME}}/{name}/greeting"
"""

_SHOW = """\
#!/bin/bash
# ---
# name: Show the greeting
# timeout: 1m
# retry_safe: true
# ...
set -euo pipefail

cat "${{HOME}}/{name}/greeting"
"""

_IMAGE = """\
schema: slipway-image-map/1
name: {image}
description: Debian 12 "bookworm".
entries:
  local:
    "*":
      x86_64: {{image: local-debian-12, instance_type: local.small, user: admin}}
      arm64: {{image: local-debian-12, instance_type: local.small, user: admin}}
  ec2:
    "*":
      x86_64:
        image: ssm:/aws/service/debian/release/12/latest/amd64
        instance_type: t3.small
        user: admin
"""


def new_template(library: Library, name: str, *, image: str = "debian-12") -> list[Path]:
    """Write a working example called ``name``, and its image map when there is none.

    Returns the files written. Raises `Conflict` when there is something of that name.
    """
    if not _NAME.match(name) or name == IMAGES_DIR:
        what = f"{name!r} is not a name; use small letters, digits, '-' and '_', like app-server"
        raise InvalidInput(Problem(where="template name", what=what))
    home = library.directory / name
    if home.exists():
        raise Conflict(f"there is a template directory {name!r} already; nothing was written")
    files = {
        f"{name}/{TEMPLATE_FILE}": _TEMPLATE,
        f"{name}/scripts/install.sh": _INSTALL,
        f"{name}/scripts/show.sh": _SHOW,
    }
    if image not in library.image_names():
        files[f"{IMAGES_DIR}/{image}.yaml"] = _IMAGE
    for path, text in files.items():
        file = library.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(name=name, image=image, images=IMAGES_DIR), encoding="utf-8")
        if file.suffix == ".sh":
            file.chmod(0o755)
    return [library.directory / path for path in files]
