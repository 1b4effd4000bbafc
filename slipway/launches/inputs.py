"""The inputs of a launch: resolved once, secrets fetched anew at each use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from slipway.audit import Masker
from slipway.errors import NotFound
from slipway.launches.environments import get_environment
from slipway.launches.requests import find_active, get_server, input_layers
from slipway.launches.services import Services
from slipway.launches.work import Work, recorded_result
from slipway.lifecycle import subject_of
from slipway.records import Launch, StepStatus
from slipway.servertemplates import (
    ResolvedInput,
    ResolvedInputs,
    ResolvedTemplate,
    render,
    resolve_inputs,
)
from slipway.steps import StepRun, steps_of
from slipway.vault import REFERENCE


@dataclass(frozen=True, kw_only=True)
class Values:
    """What scripts get, by input name."""

    plain: Mapping[str, str] = field(default_factory=dict)
    #: Input name → credential name; the value is not here.
    credentials: Mapping[str, str] = field(default_factory=dict)

    def secrets(self, services: Services) -> dict[str, SecretStr]:
        """The secret values, fetched now. Raises `NotFound`."""
        return {name: services.vault.get(key) for name, key in self.credentials.items()}


def template_of(services: Services, launch: Launch) -> ResolvedTemplate:
    """The very version this launch was requested with."""
    return services.template(launch.template_name, launch.template_hash)


def shown_inputs(services: Services, launch: Launch) -> dict[str, str]:
    """The inputs as they were resolved, else as they were requested; secrets hidden."""
    for step in steps_of(services.database, subject_of(launch.id)):
        if step.key == "resolve-inputs" and step.status == StepStatus.SUCCEEDED:
            credentials = step.result["credentials"]
            hidden = {name: _hidden(ref, launch.id) for name, ref in credentials.items()}
            return {**step.result["plain"], **hidden}
    secret = {
        name
        for name, declared in template_of(services, launch).inputs.items()
        if declared.type == "secret"
    }
    return {
        name: _hidden(str(value).removeprefix(REFERENCE), launch.id)
        if name in secret
        else str(value)
        for name, value in launch.inputs.items()
    }


def collect(services: Services, launch: Launch) -> ResolvedInputs:
    """All inputs of a launch from all layers. Raises `InvalidInput`."""
    environment = None
    if launch.environment is not None:
        environment = get_environment(services.database, launch.environment)
    server = get_server(services, launch.server_name)
    layers = input_layers(environment, server, launch.inputs)
    return resolve_inputs(template_of(services, launch).inputs, layers)


def resolve(services: Services, resolved: ResolvedInputs) -> tuple[Values, list[str]]:
    """The values as far as they are known now, and a phrase for each that has to be waited for."""
    plain: dict[str, str] = {}
    credentials: dict[str, str] = {}
    missing: list[str] = []
    for found in resolved.inputs.values():
        if found.credential is not None:
            credentials[found.name] = found.credential
        elif found.reference is not None:
            value = server_attribute(services, found)
            if value is None:
                missing.append(f"{found.name} waits for {found.reference}")
            else:
                plain[found.name] = value
        elif found.value is not None:
            plain[found.name] = render(found.value)
    return Values(plain=plain, credentials=credentials), missing


def server_attribute(services: Services, found: ResolvedInput) -> str | None:
    """What an ``env`` input refers to, or None while there is no such server or value yet."""
    if found.server is None or found.attribute is None:
        return None
    launch = find_active(services, found.server)
    if launch is None:
        return None
    attribute, _, key = found.attribute.partition(".")
    if attribute == "outputs":
        value = launch.outputs.get(key)
    elif attribute == "name":
        value = launch.server_name
    else:
        value = getattr(launch, attribute)
    return None if value is None else str(value)


def try_to_resolve(work: Work, run: StepRun) -> list[str]:
    """Resolve and record the inputs, or answer what has to be waited for."""
    resolved = collect(work.services, work.launch())
    values, missing = resolve(work.services, resolved)
    if not missing:
        _finish(run, values, resolved)
    return missing


def finish_template(work: Work, run: StepRun) -> None:
    """Record which version is launched and what is in it."""
    launch = work.launch()
    template = template_of(work.services, launch)
    run.succeed(
        f"template {template.name} {launch.template_hash[:12]} (asked for: {launch.template_ref}), "
        f"{len(template.boot)} boot scripts",
        result={
            "hash": launch.template_hash,
            "layers": [f"{layer.name} {layer.hash[:12]}" for layer in template.layers],
            "boot": [script.key for script in template.boot],
        },
    )


def _hidden(credential: str, launch_id: str) -> str:
    """What stands in a secret's place: which credential it is, unless it is the launch's own."""
    own = credential.startswith(f"launch/{launch_id}/")
    return "<hidden>" if own else f"<hidden, credential {credential}>"


def _finish(run: StepRun, values: Values, resolved: ResolvedInputs) -> None:
    """Record the values; a secret is recorded as the name of its credential."""
    sources = {found.name: found.source for found in resolved.inputs.values() if found.is_set}
    shown = {**values.plain, **{name: f"<hidden input {name}>" for name in values.credentials}}
    lines = [f"{name} = {value} ({sources[name]})" for name, value in sorted(shown.items())]
    run.succeed(
        f"{len(shown)} inputs resolved" + (": " + "; ".join(lines) if lines else ""),
        result={"plain": dict(values.plain), "credentials": dict(values.credentials)},
    )


def recorded(work: Work) -> dict[str, Any]:
    """What the launch's own step recorded, for a later flow on the same server."""
    return recorded_result(work, "resolve-inputs")


def load(work: Work, result: Mapping[str, Any]) -> Values:
    """The values an earlier step recorded; from here on their secrets are masked everywhere."""
    values = Values(plain=result["plain"], credentials=result["credentials"])
    try:
        work.driver.masker = Masker(values.secrets(work.services))
    except NotFound as error:
        raise NotFound(f"an input's secret is gone: {error}") from error
    return values
