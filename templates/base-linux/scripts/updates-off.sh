#!/usr/bin/env bash
# ---
# name: Unattended updates off
# description: Nothing installs packages on this server but us, so that it stays what was tested.
# inputs: {}
# packages: []
# timeout: 600
# retry_safe: true
# ...
#
# A server that updates itself differs from its siblings by the hour it was launched at, and its
# package lock is taken at moments nobody chose. Updates come by a new template version with a later
# freeze date, or by a new image. That is a duty: do launch them.
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"

put_file() {
  local dest="$root$1" new
  mkdir -p "$(dirname "$dest")"
  new="$(mktemp "$dest.XXXXXX")"
  cat >"$new"
  chmod "$2" "$new"
  if [ -f "$dest" ] && cmp -s "$new" "$dest"; then
    rm -f "$new"
    chmod "$2" "$dest"
    echo "unchanged: $1"
  else
    mv -f "$new" "$dest"
    echo "wrote: $1"
  fi
}

# mask UNIT...: stopped now and startable by nobody, where the unit is known at all.
mask() {
  local unit state
  for unit in "$@"; do
    state="$(systemctl is-enabled "$unit" 2>/dev/null || true)"
    case "$state" in
      '' | not-found) ;;
      masked) echo "unchanged: $unit is masked" ;;
      *)
        # Not --now: stopping the service in the middle of a dpkg run would break the packages.
        systemctl --quiet mask "$unit"
        case "$unit" in *.timer) systemctl stop "$unit" ;; esac
        echo "masked: $unit"
        ;;
    esac
  done
}

# A stand-in machine may have no os-release of its own: it stands in for a Debian.
family=debian
if [ -f "$root/etc/os-release" ]; then
  family="$(. "$root/etc/os-release" && printf '%s %s' "${ID:-}" "${ID_LIKE:-}")"
fi

case " $family " in
  *" debian "* | *" ubuntu "*)
    # 99: after 20auto-upgrades and 50unattended-upgrades, and the last one wins.
    put_file /etc/apt/apt.conf.d/99slipway-no-unattended 0644 <<'CONF'
// Written by the template base-linux: this server's packages change when it is relaunched.
APT::Periodic::Enable "0";
APT::Periodic::Update-Package-Lists "0";
APT::Periodic::Unattended-Upgrade "0";
APT::Periodic::Download-Upgradeable-Packages "0";
CONF
    if [ -z "$root" ]; then
      mask apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
        unattended-upgrades.service
      # A run that began at boot is left to end: nothing is interrupted, nothing starts after it.
      DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 check
      echo "checked: the package lock is free and the packages are in order"
    fi
    ;;
  *" rhel "* | *" fedora "* | *" amzn "* | *" centos "*)
    if [ -f "$root/etc/dnf/automatic.conf" ]; then
      sed -e 's/^[[:space:]]*download_updates[[:space:]]*=.*/download_updates = no/' \
        -e 's/^[[:space:]]*apply_updates[[:space:]]*=.*/apply_updates = no/' \
        "$root/etc/dnf/automatic.conf" | put_file /etc/dnf/automatic.conf 0644
    fi
    if [ -z "$root" ]; then
      mask dnf-automatic.timer dnf-automatic-install.timer dnf-automatic-download.timer \
        dnf-automatic-notifyonly.timer dnf-makecache.timer
    fi
    ;;
  *)
    echo "this server is '$family': base-linux knows Debian, Ubuntu, Amazon Linux and Rocky" >&2
    exit 1
    ;;
esac

if [ -n "$root" ]; then
  echo "left out: masking timers, because a stand-in machine has no service manager"
fi
