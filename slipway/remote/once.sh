# Runs a script at most once and keeps its outcome. Sent by once.py, which documents the protocol;
# comments and indentation are taken out on the way. POSIX sh: dash, bash 3.2, busybox ash.
#
# One directory per run, $R:
#   claim      who runs it: "nonce pid identity boot-id uptime digest"; made by ln(1), so it is
#              there whole or not at all and only one process can make it
#   script     what runs           once.sh   this file
#   pid        "pid identity" of the script's process group leader
#   output     standard output and error of the script, in one
#   outputs    what the script wrote to $SLIPWAY_OUTPUT
#   timed_out, killed    why the script was ended, when we ended it
#   ended      the script's own process is gone
#   exit       "status exit-code uptime"; renamed into place, the last thing written
#
# The claim names the process that will run the script. So at every instant one of these is true:
# no claim (nothing has run), exit (it has ended), the claimed process lives on the same boot (it is
# running), or none of them (it was interrupted and will never be started again).

mode=$1
newline='
'
say() { printf '@%s %s\n' "$nonce" "$*" >&2; }
refuse() { say "refused $*"; exit 3; }

# Sets B, the identity of this boot.
boot() {
  B=
  for f in "${SLIPWAY_ROOT:-}/proc/sys/kernel/random/boot_id" /proc/sys/kernel/random/boot_id; do
    if [ -r "$f" ]; then
      IFS= read -r B <"$f" || :
      break
    fi
  done
  if [ -z "$B" ]; then
    B=$(sysctl -n kern.bootsessionuuid 2>/dev/null) || B=
  fi
  if [ -z "$B" ]; then
    B=$(sysctl -n kern.boottime 2>/dev/null | tr -c 'A-Za-z0-9' _) || B=
  fi
  B=${B:-unknown}
}

# Sets T, seconds on a clock that a time correction does not move (where there is one).
uptime_s() {
  T=
  if [ -r /proc/uptime ]; then
    read -r T f </proc/uptime || :
  fi
  T=${T:-$(date +%s)}
}

# Sets I, what tells this process from a later one with the same number; false when it is gone.
identity() {
  I=
  case ${1:-x} in *[!0-9]*) return 1 ;; esac
  if [ -r /proc/self/stat ]; then
    { IFS= read -r f <"/proc/$1/stat"; } 2>/dev/null || return 1
    f=${f##*) }
    # shellcheck disable=SC2086
    set -- $f
    case $1 in Z | X) return 1 ;; esac
    shift 19
    I=$1
  else
    f=$(LC_ALL=C ps -o stat= -o lstart= -p "$1" 2>/dev/null) || return 1
    # shellcheck disable=SC2086
    set -- $f
    case ${1:-Z} in Z*) return 1 ;; esac
    shift
    I=$(printf '%s_' "$@")
  fi
}

# Sets S: none, running, ended, interrupted.
state() {
  S=ended
  if [ ! -e "$R/claim" ]; then
    S=none
    return
  fi
  read -r c_nonce c_pid c_identity c_boot c_uptime c_digest <"$R/claim" || :
  if [ -e "$R/exit" ]; then return; fi
  boot
  if [ "$B" = "$c_boot" ] && identity "$c_pid" && [ "$I" = "$c_identity" ]; then
    S=running
    return
  fi
  # It may have written the record and gone between our two looks.
  if [ ! -e "$R/exit" ]; then S=interrupted; fi
}

# On the disk, not only in memory: after a power cut the claim must still be there. The local
# stand-in has no power to lose.
durable() {
  if [ -z "${SLIPWAY_ROOT:-}" ]; then sync "$@" 2>/dev/null || sync; fi
}

# Sets D, the full path of what starts a session: the script's own PATH must not decide about it.
find_detacher() {
  D=$(command -v setsid || command -v perl || command -v python3) || {
    echo "slipway: this server has none of setsid, perl, python3; install one" >&2
    exit 127
  }
}

# Replaces this process by a command in a session of its own.
detached() {
  case ${D##*/} in
  setsid) exec "$D" "$@" ;;
  perl) exec "$D" -e 'use POSIX; POSIX::setsid(); exec { $ARGV[0] } @ARGV; exit 127' "$@" ;;
  esac
  exec "$D" -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' "$@"
}

pause() { sleep "$1" 2>/dev/null || sleep 1; }

# Ends a process group: asks, waits ($grace tenths of a second at most), then does not ask.
end_group() {
  kill -s TERM -- "-$1" 2>/dev/null || :
  k=0
  while kill -s 0 -- "-$1" 2>/dev/null && [ "$k" -lt "$grace" ]; do
    pause 0.1
    k=$((k + 1))
  done
  kill -s KILL -- "-$1" 2>/dev/null || :
}

# Reads what both the first process and the supervisor need, into H as well.
header() {
  H=
  for v in nonce run offset timeout grace hold digest size interpreter argument variables; do
    IFS= read -r f || exit 4
    eval "$v=\$f"
    H="$H$f$newline"
  done
  E=
  k=0
  while [ "$k" -lt "$variables" ]; do
    IFS= read -r f || exit 4
    E="$E$f$newline"
    k=$((k + 1))
  done
  R=${SLIPWAY_ROOT:-}/var/lib/slipway/runs/$run
  if [ -z "${SLIPWAY_ROOT:-}" ]; then unset SLIPWAY_ROOT; fi
}

# The child that becomes the script. Variables are decoded here, so that they are never in the
# supervisor's environment and a PATH among them changes nothing for it. No here-document: some
# shells put those into a file.
become_script() {
  trap - HUP INT TERM
  while [ -n "$E" ]; do
    f=${E%%"$newline"*}
    E=${E#*"$newline"}
    v=$(printf '%b.' "${f#*=}")
    export "${f%%=*}=${v%.}"
  done
  export SLIPWAY_RUN_ID="$run" SLIPWAY_OUTPUT="$R/outputs"
  if [ -n "$argument" ]; then
    detached "$interpreter" "$argument" "$R/script"
  fi
  detached "$interpreter" "$R/script"
}

# Ends the script when its time is over. Descriptor 5 is a pipe that only the timer (a sleep) holds
# open at the other end, so this wakes up exactly when the timer ends, or was killed because the
# script ended first. (A trap would miss a signal that comes just before wait.)
watchdog() {
  # Not as a redirection of this function's call: shells keep a copy open to go back to.
  exec 4<&-
  read -r f <&5 || :
  if [ -e "$R/ended" ]; then exit 0; fi
  : >"$R/timed_out"
  end_group "$1"
}

supervise() {
  trap '' HUP INT TERM
  find_detacher
  U=$(umask)
  umask 077
  boot
  uptime_s
  identity $$ || exit 5
  # Whatever can fail is done before the claim: after it, failing would be an interruption.
  mkfifo "$R/timer.$nonce" || exit 5
  f="$R/claim.$nonce"
  printf '%s %s %s %s %s %s\n' "$nonce" $$ "$I" "$B" "$T" "$digest" >"$f" || exit 5
  if ! ln "$f" "$R/claim" 2>/dev/null; then
    rm -f "$f" "$R/upload.$nonce" "$R/timer.$nonce"
    exit 0
  fi
  mv -f "$R/upload.$nonce" "$R/script"
  chmod 700 "$R/script"
  : >"$R/outputs"
  rm -f "$f" "$R"/upload.* "$R"/claim.*
  durable "$R/script" "$R/claim" "$R" "$R/.."
  (
    umask "$U"
    become_script
  ) </dev/null >>"$R/output" 2>&1 &
  s=$!
  E=
  if identity "$s"; then
    printf '%s %s\n' "$s" "$I" >"$R/pid.new"
    mv -f "$R/pid.new" "$R/pid"
  fi
  exec 4<>"$R/timer.$nonce" 5<"$R/timer.$nonce"
  sleep "$timeout" </dev/null >/dev/null 2>&1 5<&- &
  timer=$!
  watchdog "$s" </dev/null >/dev/null 2>&1 &
  w=$!
  exec 4<&- 5<&-
  rm -f "$R/timer.$nonce"
  wait "$s"
  code=$?
  : >"$R/ended"
  kill -s KILL "$timer" 2>/dev/null || :
  wait "$w"
  status=finished
  if [ -e "$R/timed_out" ]; then status=timed_out; fi
  if [ -e "$R/killed" ]; then status=interrupted; fi
  uptime_s
  printf '%s %s %s\n' "$status" "$code" "$T" >"$R/exit.new" || exit 5
  durable "$R/output" "$R/outputs" "$R/exit.new"
  mv -f "$R/exit.new" "$R/exit"
  durable "$R"
}

# Copies output as it grows, until the run is over. Descriptor 3 is the output file; its position is
# shared by everybody who reads it, so nothing is copied twice and nothing is left out.
stream() {
  stop=
  trap 'stop=1' TERM
  t=1
  beat=0
  left=$hold
  while [ -z "$stop" ]; do
    cat <&3 || exit 1
    state
    case $S in
    running) ;;
    none) if [ -z "$supervisor" ] || ! kill -0 "$supervisor" 2>/dev/null; then break; fi ;;
    *) break ;;
    esac
    # Told to stay for a while only: leave the rest to the next call.
    if [ "$hold" -gt 0 ] && [ "$left" -le 0 ]; then
      kill -USR1 $$
      break
    fi
    left=$((left - t))
    # A word now and then finds out that nobody listens any more: it ends us.
    beat=$((beat + t))
    if [ "$beat" -gt 320 ]; then
      printf '\n' >&2 || exit 1
      beat=0
    fi
    case $t in
    1) f=0.05 ;;
    2) f=0.1 ;;
    4) f=0.2 ;;
    8) f=0.4 ;;
    *) f=1 ;;
    esac
    # Off our output: sshd waits for everybody who holds it. One that knows no fractions fails at
    # once.
    sleep "$f" </dev/null >/dev/null 2>&1 3<&- &
    wait $! || [ -n "$stop" ] || sleep 1
    if [ "$t" -lt 16 ]; then t=$((t * 2)); fi
  done
  trap - TERM
}

report() {
  state
  say "state $S"
  if [ "$S" = none ]; then return; fi
  say "claim $c_nonce $c_uptime $c_digest"
  if [ -e "$R/exit" ]; then
    boot
    IFS= read -r f <"$R/exit" || :
    # Ended by the TERM or KILL of a shutdown, in a boot that is over: it was cut off.
    case $f in
    "finished 143 "* | "finished 137 "*)
      if [ "$B" != "$c_boot" ]; then f="interrupted ${f#finished }"; fi
      ;;
    esac
    say "exit $f"
  fi
  if [ -s "$R/outputs" ]; then
    say outputs
    head -c 65537 "$R/outputs" >&2
    printf '\n' >&2
  fi
  say end
}

# Opens the output at the wanted place, after a mark that tells it from anything a login shell says.
open_output() {
  : >>"$R/output" || refuse "$R/output cannot be written"
  exec 3<"$R/output"
  printf '\n@%s\n' "$nonce"
  if [ "$offset" -gt 0 ]; then tail -c "+$((offset + 1))" <&3; fi
}

start() {
  supervisor=
  U=$(umask)
  umask 077
  mkdir -p "$R" || refuse "$R cannot be made"
  state
  if [ "$S" = none ]; then
    cat >"$R/upload.$nonce" || :
    k=$(wc -c <"$R/upload.$nonce") || k=0
    if [ "$((k))" -eq "$size" ]; then
      printf '%s' "$P" >"$R/once.$nonce" || refuse "$R cannot be written"
      mv -f "$R/once.$nonce" "$R/once.sh"
      : >>"$R/output"
      umask "$U"
      printf '%s' "$H$E" | {
        find_detacher
        detached sh "$R/once.sh" supervise
      } >>"$R/log" 2>&1 &
      supervisor=$!
      umask 077
    else
      # Cut off, the disk is full, or somebody else's run has begun and cleaned up.
      rm -f "$R/upload.$nonce"
      if [ ! -e "$R/claim" ]; then refuse "the script did not arrive whole"; fi
    fi
  fi
  open_output
  held=
  trap 'held=1' USR1
  if [ -n "$supervisor" ]; then
    stream &
    f=$!
    wait "$supervisor"
    kill -TERM "$f" 2>/dev/null || :
    wait "$f"
    supervisor=
  fi
  if [ -z "$held" ]; then stream; fi
  # Everything the script itself wrote is there now.
  cat <&3
  state
  if [ "$S" = none ] && [ -z "$held" ]; then
    refuse "it could not be started: $(tail -n 1 "$R/log" 2>&1)"
  fi
  report
}

look() {
  if [ ! -e "$R/claim" ]; then
    printf '\n@%s\n' "$nonce"
    say "state none"
    return
  fi
  state
  open_output
  cat <&3
  report
}

# Ends a run, or sees to it that it never begins.
stop_run() {
  umask 077
  mkdir -p "$R" || refuse "$R cannot be made"
  printf '%s 0 0 none 0 %s\n' "$nonce" "$digest" >"$R/claim.$nonce" || refuse "$R cannot be written"
  ln "$R/claim.$nonce" "$R/claim" 2>/dev/null || :
  rm -f "$R/claim.$nonce"
  state
  if [ "$S" = running ]; then
    : >"$R/killed"
    k=0
    while [ ! -e "$R/pid" ] && [ "$k" -lt 50 ] && [ "$S" = running ]; do
      pause 0.1
      k=$((k + 1))
      state
    done
  fi
  if [ "$S" != none ] && [ -e "$R/pid" ] && [ ! -e "$R/exit" ]; then
    read -r g g_identity <"$R/pid" || :
    boot
    # The leader is there and is ours, or it is gone and the group, if any, is still its own: the
    # kernel gives no process the number of a living group.
    if [ "$B" = "$c_boot" ] && { ! identity "$g" || [ "$I" = "$g_identity" ]; }; then
      end_group "$g"
    fi
  fi
  k=0
  state
  while [ "$S" = running ] && [ "$k" -lt 100 ]; do
    pause 0.1
    k=$((k + 1))
    state
  done
  open_output
  cat <&3
  report
}

header
case $mode in
supervise) supervise ;;
start) start ;;
look) look ;;
stop) stop_run ;;
esac
