"""What a repository is, as somebody has declared it."""

from __future__ import annotations

from dataclasses import dataclass

from slipway.mirrors.manifest import Coverage


@dataclass(frozen=True, kw_only=True)
class Keep:
    """How many days are kept, of those that nobody has pinned: the newest state of each of the last
    so many days, weeks and months that have one."""

    daily: int = 60
    weekly: int = 26
    monthly: int = 60


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """What of a repository is here before somebody asks for it."""

    coverage: Coverage = Coverage.COMPLETE
    #: For `Coverage.CLOSURE`: packages that all has to be here for.
    names: tuple[str, ...] = ()
    #: As well: what the scripts of templates say they install.
    templates: bool = False
    #: What that is; a name that the repository does not have is another's.
    named_by_templates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository that is to be kept by day."""

    name: str
    #: Where it is mirrored from, in order of preference.
    urls: tuple[str, ...]
    #: What of it is taken, each by itself, and all at one moment.
    suites: tuple[str, ...]
    #: The certificates that may sign it.
    keyring: bytes
    #: The file on a client that has them, for its sources.
    signed_by: str
    #: Those that its packages are wanted for, as its kind calls them.
    architectures: tuple[str, ...]
    keep: Keep = Keep()
    fetch: Fetch = Fetch()


@dataclass(frozen=True, kw_only=True)
class AptRepository(Repository):
    """A Debian repository. Its suites are names below ``dists/``; one that ends in a slash is flat:
    a directory with the release in it."""

    #: Empty: all that the release names.
    components: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ("amd64",)
    #: Of translated descriptions.
    languages: tuple[str, ...] = ("en",)
    sources: bool = False
    #: Lists of which file is in which package.
    contents: bool = False
    #: Packages of the Debian installer.
    installer: bool = False


@dataclass(frozen=True, kw_only=True)
class RpmRepository(Repository):
    """Repositories for dnf below one address. Its suites are the directories that have a
    ``repodata``, each with a slash at its end; ``/`` is the address itself."""

    architectures: tuple[str, ...] = ("x86_64",)
    #: Whether what says which packages there are is signed; else packages alone are.
    signed_metadata: bool = True
    #: The distribution it is for: ID and the first number of VERSION_ID of its ``os-release``,
    #: ``rocky-9``; empty when launches do not take their packages from it.
    system: str = ""
    #: Whether it only adds to that distribution.
    supplementary: bool = False
