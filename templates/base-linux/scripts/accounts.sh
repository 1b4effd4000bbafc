#!/usr/bin/env bash
# ---
# name: Accounts
# description: Gives each person an account of their own with their SSH key, and takes it back.
# inputs:
#   ACCOUNTS:
#     type: list
#     default: []
#     description: Who may log in, each as name:ssh-public-key; several entries per name add keys.
#   ACCOUNTS_SUDO:
#     type: bool
#     default: true
#     description: Whether these accounts may become root without a password.
# packages: []
# timeout: 120
# retry_safe: true
# ...
#
# An account that is no longer on the list loses its keys and its sudo rule; its home directory is
# kept, since what is in it belongs to somebody. Accounts that this script did not create are never
# touched: the image's own login user stays as it is.
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"
managed="$root/var/lib/slipway/accounts"

# put_file PATH MODE: standard input becomes $root/PATH, whole or not at all.
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

remove_file() {
  if [ -e "$root$1" ]; then
    rm -f "$root$1"
    echo "removed: $1"
  fi
}

# Everything is checked before anything is changed: half a list would lock somebody out.
names=""
entry_number=0
while IFS= read -r entry; do
  [ -n "$entry" ] || continue
  entry_number=$((entry_number + 1))
  name="${entry%%:*}"
  key="${entry#*:}"
  case "$name" in
    *[!a-z0-9_-]* | [!a-z_]* | '')
      echo "ACCOUNTS entry $entry_number: '$name' is no account name;" \
        "write name:ssh-public-key with a name of a-z, 0-9, _ and -" >&2
      exit 2
      ;;
    root)
      echo "ACCOUNTS entry $entry_number: root gets no key; give a person's own account" >&2
      exit 2
      ;;
  esac
  case "$key" in
    "ssh-"*" AAAA"* | "ecdsa-"*" AAAA"* | "sk-"*" AAAA"*) ;;
    *)
      echo "ACCOUNTS entry $entry_number ($name): no SSH public key after the colon;" \
        "it would begin like 'ssh-ed25519 AAAA'" >&2
      exit 2
      ;;
  esac
  case " $names " in
    *" $name "*) ;;
    *) names="$names $name" ;;
  esac
done <<LIST
${ACCOUNTS:-}
LIST

# An account that was there before us is somebody else's, unless an earlier run wrote its name down.
is_managed() {
  [ -f "$managed" ] && grep -qxF "$1" "$managed"
}

keys_of() {
  local entry
  while IFS= read -r entry; do
    if [ "${entry%%:*}" = "$1" ]; then
      printf '%s\n' "${entry#*:}"
    fi
  done <<LIST
${ACCOUNTS:-}
LIST
}

home_of() {
  if [ -z "$root" ]; then
    getent passwd "$1" | cut -d : -f 6
  else
    printf '%s/home/%s\n' "$root" "$1"
  fi
}

# as_person NAME COMMAND...: what is in a home directory is done as its owner, who could otherwise
# point root at any file with a symbolic link.
as_person() {
  local name="$1"
  shift
  if [ -z "$root" ]; then
    runuser -u "$name" -- "$@"
  else
    "$@"
  fi
}

if [ -n "$root" ]; then
  echo "left out: useradd, because a stand-in machine has one user, the one who runs it;" \
    "keys and sudo rules are written as they would be"
fi

for name in $names; do
  if [ -z "$root" ]; then
    if ! getent passwd "$name" >/dev/null; then
      # Written down first: a run cut off here must find its own account again.
      mkdir -p "$(dirname "$managed")"
      is_managed "$name" || printf '%s\n' "$name" >>"$managed"
      useradd --create-home --shell /bin/bash "$name"
      echo "created: account $name"
    elif ! is_managed "$name"; then
      echo "ACCOUNTS names '$name', an account this server had already;" \
        "choose another name, so that nobody's login is changed by accident" >&2
      exit 1
    else
      echo "unchanged: account $name"
    fi
  else
    mkdir -p "$(dirname "$managed")"
    is_managed "$name" || printf '%s\n' "$name" >>"$managed"
  fi
  home="$(home_of "$name")"
  # shellcheck disable=SC2016  # the inner sh expands it
  keys_of "$name" | as_person "$name" sh -c '
    set -eu
    umask 077
    mkdir -p "$1"
    cat >"$1/authorized_keys.new"
    if cmp -s "$1/authorized_keys.new" "$1/authorized_keys"; then
      rm -f "$1/authorized_keys.new"
      echo "unchanged: the keys of $2"
    else
      mv -f "$1/authorized_keys.new" "$1/authorized_keys"
      echo "wrote: the keys of $2"
    fi' sh "$home/.ssh" "$name"
  if [ -z "$root" ] && command -v restorecon >/dev/null 2>&1; then
    restorecon -R "$home/.ssh"
  fi
  if [ "${ACCOUNTS_SUDO:-true}" = true ]; then
    # No dot in the name: sudo ignores files in sudoers.d that have one.
    printf '%s ALL=(ALL) NOPASSWD:ALL\n' "$name" | put_file "/etc/sudoers.d/90-slipway-$name" 0440
  else
    remove_file "/etc/sudoers.d/90-slipway-$name"
  fi
done

if [ -f "$managed" ]; then
  while IFS= read -r name; do
    case " $names " in
      *" $name "*) continue ;;
    esac
    remove_file "/etc/sudoers.d/90-slipway-$name"
    if [ -z "$root" ] && ! getent passwd "$name" >/dev/null; then
      continue
    fi
    keys="$(home_of "$name")/.ssh/authorized_keys"
    if [ -e "$keys" ]; then
      # </dev/null: the list this loop reads must not be eaten.
      as_person "$name" rm -f "$keys" </dev/null
      echo "removed: the keys of $name"
    fi
  done <"$managed"
fi
echo "accounts:${names:- none}"
