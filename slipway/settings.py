"""One frozen settings object, read from the environment (``SLIPWAY_*``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_templates_dir() -> Path:
    """``templates/`` of the checkout, else the copy inside the wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "templates"
    return checkout if checkout.is_dir() else package / "_templates"


class Settings(BaseSettings):
    """Where Slipway keeps its state and how it behaves; every field is ``SLIPWAY_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_", frozen=True, extra="ignore")

    state_dir: Path = Field(
        default_factory=lambda: user_data_path("slipway"),
        description="Directory for the database, keys, logs and the local cloud's machines.",
    )
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL; empty means SQLite in the state directory.",
    )
    templates_dir: Path = Field(
        default_factory=_default_templates_dir,
        description="Where ServerTemplates and image maps are looked up by name.",
    )
    clouds_file: Path | None = Field(
        default=None,
        description="YAML file with the clouds to launch in, besides the local one.",
    )
    mirror_dir: Path | None = Field(
        default=None,
        description="Directory for the files of mirrored repositories; empty means 'mirror' in the "
        "state directory.",
    )
    mirror_url: str = Field(
        default="",
        description="Where servers reach the mirrored repositories, without /snapshots; empty "
        "means the distributions' own archives by date.",
    )
    api_ca_file: Path | None = Field(
        default=None,
        description="PEM file with the authority behind the API's certificate, for agents; "
        "without it they trust what their system trusts.",
    )
    time_servers: tuple[str, ...] = Field(
        default=(),
        description="NTP servers this machine's own clock is checked against before others' are.",
    )
    max_connections: int = Field(
        default=32, ge=1, description="SSH connections open at once in one process."
    )
    poll_interval_s: float = Field(
        default=0.5, gt=0, description="Shortest pause between two listings of one cloud region."
    )
    watch_interval_s: float = Field(
        default=60.0,
        gt=0,
        description="Pause between two listings of a cloud region with servers while nobody waits "
        "there: how soon it is noticed that one was stopped, terminated or retagged elsewhere.",
    )
    lease_s: float = Field(
        default=60.0, gt=0, description="How long a launch stays with a process that went silent."
    )
    engine: Literal["auto", "local", "deployments"] = Field(
        default="auto",
        description="Who runs what the command line hands over: a process of its own each "
        "(local), or the workers of Prefect's deployments; auto: those when 'slipway up' runs some "
        "here.",
    )
    worker_runs: int = Field(
        default=200, ge=1, description="Flow runs of one worker at a time; 2 MB of memory each."
    )
    worker_starts: int = Field(
        default=8, ge=1, description="Flow runs of one worker that are being started at a time."
    )
    worker_drain_s: float = Field(
        default=20.0,
        ge=0,
        description="How long the runs of a worker that is stopped may take to end; the rest goes "
        "on elsewhere.",
    )
    api_url: str = Field(
        default="http://127.0.0.1:4280",
        description="Where others reach the HTTP API; links and call-backs begin with it.",
    )
    prefect_ui_url: str = Field(
        default="http://127.0.0.1:4200",
        description="Where people look at Prefect; the dashboard's links to flow runs begin with "
        "it. Empty: no links.",
    )
    api_tls_certificate: Path | None = Field(
        default=None, description="Certificate chain (PEM) the API serves TLS with."
    )
    api_tls_key: Path | None = Field(
        default=None, description="Private key (PEM) of the API's certificate."
    )
    api_behind_tls_proxy: bool = Field(
        default=False,
        description="Let the API listen on other addresses than loopback without TLS of its own, "
        "because a proxy in front of it speaks TLS.",
    )
    ended_listed_h: float = Field(
        default=30 * 24,
        ge=1,
        description="How many hours terminated launches stay in lists; at least one.",
    )
    changes_kept_days: float = Field(
        default=30,
        ge=1,
        description="How many days the change log reaches back, for streams that are resumed.",
    )
    callback_allow_private: bool = Field(
        default=False,
        description="Let launches call back private, loopback and link-local addresses.",
    )

    @model_validator(mode="after")
    def _fill_database_url(self) -> Settings:
        object.__setattr__(self, "state_dir", self.state_dir.expanduser().absolute())
        if not self.database_url:
            url = f"sqlite:///{self.state_dir / 'slipway.db'}"
            object.__setattr__(self, "database_url", url)
        return self
