#!/bin/sh
# Points the package manager at the repositories as they were on FREEZE_DATE (YYYY-MM-DD): by
# MIRROR_SOURCES where they are given, else from MIRROR_URL (a Slipway mirror) or, without one, from
# the distribution's own dated archive.
# Earlier sources are moved aside, not deleted. Running it twice leaves the same state.
set -eu

root=${SLIPWAY_ROOT:-}
if [ ! -r "$root/etc/os-release" ]; then
  echo "cannot tell which system this is: $root/etc/os-release is missing" >&2
  exit 1
fi
ID='' VERSION_ID='' VERSION_CODENAME=''
# shellcheck disable=SC1091
. "$root/etc/os-release"
major=${VERSION_ID%%.*}
stamp=$(printf %s "$FREEZE_DATE" | tr -d -)T000000Z
mirror=${MIRROR_URL%/}

move_aside() {
  for file in "$@"; do
    case $file in */slipway.*) continue ;; esac
    if [ -s "$file" ]; then
      mv "$file" "$file.before-slipway"
      echo "moved aside $file"
    fi
  done
}

# name, URI, suites, components, keyring
stanza() {
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\n' "$2" "$3" "$4"
  printf 'Signed-By: %s\nCheck-Valid-Until: no\nX-Repository: %s\n\n' "$5" "$1"
}

freeze_apt() {
  sources=$root/etc/apt/sources.list.d
  mkdir -p "$sources"
  if [ -n "$MIRROR_SOURCES" ]; then
    printf %s "$MIRROR_SOURCES" >"$sources/slipway.new"
  else
    write_archives >"$sources/slipway.new"
  fi
  move_aside "$root/etc/apt/sources.list" "$sources"/*.list "$sources"/*.sources
  mv "$sources/slipway.new" "$sources/slipway.sources"
  echo "packages come from $FREEZE_DATE: $sources/slipway.sources"
  if [ -n "$root" ]; then
    echo "package lists not refreshed: a stand-in machine has no package manager of its own"
    return
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o APT::Update::Error-Mode=any update
}

write_archives() {
  case $ID in
    debian)
      keys=/usr/share/keyrings/debian-archive-keyring.gpg
      parts='main contrib non-free non-free-firmware'
      if [ "$major" -lt 12 ]; then parts='main contrib non-free'; fi
      base=https://snapshot.debian.org/archive
      main=$base/debian/$stamp security=$base/debian-security/$stamp
      if [ -n "$mirror" ]; then
        main=$mirror/snapshots/$FREEZE_DATE/debian
        security=$mirror/snapshots/$FREEZE_DATE/debian-security
      fi
      stanza debian "$main" "$VERSION_CODENAME $VERSION_CODENAME-updates" "$parts" "$keys"
      stanza debian-security "$security" "$VERSION_CODENAME-security" "$parts" "$keys"
      ;;
    ubuntu)
      keys=/usr/share/keyrings/ubuntu-archive-keyring.gpg
      archive=https://snapshot.ubuntu.com/ubuntu/$stamp
      if [ -n "$mirror" ]; then archive=$mirror/snapshots/$FREEZE_DATE/ubuntu; fi
      suites="$VERSION_CODENAME $VERSION_CODENAME-updates $VERSION_CODENAME-security"
      stanza ubuntu "$archive" "$suites" 'main restricted universe multiverse' "$keys"
      ;;
  esac
}

freeze_dnf() {
  if [ -z "$MIRROR_SOURCES" ]; then
    echo "$ID $VERSION_ID has no public archive by date, and no mirror is for it: declare its" \
      "repositories with 'system: $ID-$major' and set SLIPWAY_MIRROR_URL" >&2
    exit 1
  fi
  mkdir -p "$root/etc/dnf/vars" "$root/etc/yum.repos.d"
  printf '%s\n' "$FREEZE_DATE" >"$root/etc/dnf/vars/slipday"
  printf %s "$MIRROR_SOURCES" >"$root/etc/yum.repos.d/slipway.new"
  move_aside "$root"/etc/yum.repos.d/*.repo
  mv "$root/etc/yum.repos.d/slipway.new" "$root/etc/yum.repos.d/slipway.repo"
  echo "packages come from $FREEZE_DATE: $root/etc/yum.repos.d/slipway.repo"
  if [ -z "$root" ]; then dnf -y --setopt=retries=3 makecache; fi
}

case $ID in
  debian | ubuntu) freeze_apt ;;
  *)
    if [ -z "$MIRROR_SOURCES" ] && ! command -v dnf >/dev/null; then
      echo "packages of $ID cannot be frozen: it is neither debian nor ubuntu, and has no dnf" >&2
      exit 1
    fi
    freeze_dnf
    ;;
esac
