# lib.sh - what the demo's story is told with: printing, waiting, the daemon, the guests, cleaning up. Sourced by demo only.
# Everything that is started here is ended by cleanup, by its pid; everything that may wait has a limit.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034,SC2086 # work, O, here, guests and the like are the story's own; pids and numbers need no quotes
declare -a domids=() judges=()
steps=0

now_us() { echo "${EPOCHREALTIME/./}"; }
note() { printf '   %s\n' "$*"; }
step() {
  steps=$((steps + 1))
  printf '\n%d. %s  [%d s]\n' $steps "$*" $SECONDS
}

fail() {
  trap '' INT TERM HUP
  printf '\nDEMO FAILED: %s\n' "$*" >&2
  local log
  for log in "$work"/parallaxd.log "$work"/hv/*.log "$work"/guest*/out; do
    [ -s "$log" ] && { echo "--- the end of ${log#"$work/"}:"; tail -n 15 "$log"; } >&2
  done
  exit 1
}

# px and run: the command line under a limit; run shows what it does and fails the demo if it fails.
px() { timeout -k 5 120 "$O/parallax" "$@"; }
run() {
  local -a shown=("$@")
  [ "$1" = px ] && shown=(parallax "${@:2}")
  printf '   $ %s\n' "${shown[*]//$work\//}"
  "$@" >"$work/output" 2>&1 || { sed 's/^/   | /' "$work/output"; fail "${shown[*]//$work\//}"; }
  head -n 40 "$work/output" | sed 's/^/   | /'
}

require_machine() {
  local missing=()
  [ "$(id -u)" = 0 ] || { echo "demo: it mounts file systems: run it as root" >&2; exit 1; }
  local tool
  for tool in mke2fs e2fsck losetup unshare mount umount sha256sum cmp tar; do
    command -v $tool >/dev/null || missing+=("the program $tool")
  done
  [ -c /dev/fuse ] || missing+=("/dev/fuse (kernel module fuse)")
  [ -c /dev/loop-control ] || missing+=("/dev/loop-control (kernel module loop)")
  grep -qw ext4 /proc/filesystems || missing+=("ext4 in the kernel")
  local program
  for program in parallax parallaxd parallax-hypervisor tests/programs/guest_fuse; do
    [ -x "$O/$program" ] || missing+=("$O/$program (run make tests)")
  done
  [ ${#missing[@]} = 0 ] && return
  printf 'demo: this machine lacks %s\n' "${missing[@]}" >&2
  exit 1
}

# The watchdog interrupts whatever the demo is waiting for; each single wait has a shorter limit of its own.
start_watchdog() {
  (
    trap 'kill $nap 2>/dev/null; exit' TERM
    sleep "$1" &
    nap=$!
    wait $nap
    kill -TERM $$
  ) &
  watchdog=$!
}

start_daemon() {
  local seen i
  seen=$(grep -c '^\(<.>\)\?ready' "$work/parallaxd.log" 2>/dev/null)
  "$O/parallaxd" --hypervisor local --socket "$work/parallaxd.sock" >>"$work/parallaxd.log" 2>&1 &
  daemon=$!
  for ((i = 0; i < 300; i++)); do
    if [ "$(grep -c '^\(<.>\)\?ready' "$work/parallaxd.log")" -gt "${seen:-0}" ]; then
      note "parallaxd is ready, pid $daemon"
      return
    fi
    kill -0 $daemon 2>/dev/null || fail "parallaxd ended at its start"
    sleep 0.1
  done
  fail "parallaxd is not ready after 30 s"
}

# Waits up to $2 tenths of a second for the end of process $1 and gives its status; 124 if it still lives.
wait_end() {
  local i
  for ((i = 0; i < $2; i++)); do
    kill -0 "$1" 2>/dev/null || { wait "$1"; return; }
    sleep 0.1
  done
  return 124
}

stop_daemon() {
  kill -TERM $daemon
  wait_end $daemon 300 || fail "parallaxd did not end well on SIGTERM: status $?"
  daemon=''
  note "parallaxd drained, checkpointed and ended on SIGTERM"
}

start_guest() { # NUMBER
  mkdir -p "$work/guest$1"
  "$here/guest.sh" "$work/guest$1" "$work/sources" >"$work/guest$1/out" 2>&1 </dev/null &
  guest_pids[$1]=$!
}

attach_guest() { # NUMBER
  local i
  for ((i = 0; i < 200; i++)); do
    domids[$1]=$(sed -n 's/^guest .*domid=\([0-9]*\).*/\1/p' "$work/guest$1/out")
    [ -n "${domids[$1]}" ] && break
    sleep 0.1
  done
  [ -n "${domids[$1]}" ] || fail "guest $1 did not become a domain"
  run px attach "vm$1" "${domids[$1]}" --vdev xvda
}

# The guest's domain may hold its ring, its door and the hypervisor's descriptors, but nothing of the store.
knows_only_its_ring() { # NUMBER
  local open
  open=$(readlink /proc/"$(<"$work/guest$1/pid")"/fd/* | grep -F "$work/store")
  [ -z "$open" ] || fail "guest $1 holds a file of the store: $open"
}

of_guests() { # SUFFIX: vm0SUFFIX vm1SUFFIX …
  local i
  for ((i = 0; i < guests; i++)); do printf 'vm%d%s\n' $i "$1"; done
}
written() { grep -c ^synced "$work/guest$1/log" 2>/dev/null; }
written_by_all() {
  local i sum=0
  for ((i = 0; i < guests; i++)); do sum=$((sum + $(written $i))); done
  echo $sum
}

# Waits until every guest has written and synced COUNT more files than now.
wait_for_files() { # COUNT WHEN
  local i tick
  local -a from=()
  for ((i = 0; i < guests; i++)); do from[i]=$(written $i); done
  for ((tick = 0; tick < 600; tick++)); do
    for ((i = 0; i < guests; i++)); do
      kill -0 "${guest_pids[i]}" 2>/dev/null || fail "guest $i ended $2"
      [ "$(written $i)" -ge $((${from[i]:-0} + $1)) ] || break
    done
    [ $i -lt $guests ] || return 0
    sleep 0.1
  done
  fail "guest $i wrote nothing for 60 s $2"
}

stop_guests() {
  local i
  for ((i = 0; i < guests; i++)); do : >"$work/guest$i/stop"; done
  for ((i = 0; i < guests; i++)); do
    wait_end "${guest_pids[i]}" 600 || fail "guest $i did not end well: status $?"
    guest_pids[i]=''
  done
}

# The end of a domain ends its devices; the storage domain notices a moment later.
wait_for_no_device() {
  local i
  for ((i = 0; i < 100; i++)); do
    px status --json >"$work/output" || fail "no status"
    grep -q '"vdev"' "$work/output" || return 0
    sleep 0.1
  done
  fail "the storage domain still has devices of guests that have ended"
}

judge() { # NUMBER SNAPSHOT BEFORE AFTER
  local copy=$work/vm$1@$2.img
  px -q export "vm$1@$2" "$copy" && timeout 120 "$here/verify.sh" "$copy" "$work/judge$1" "$work/guest$1/log" "$3" "$4" "$work/sources" |
    sed 's/^/   /'
  local result=${PIPESTATUS[0]}
  rm -f "$copy"
  return "$result"
}

# Two at a time, as there are processors for.
judge_all() { # SNAPSHOT BEFORE AFTER
  local i status=0
  for ((i = 0; i < guests; i += 2)); do
    judge $i "$@" &
    judges=($!)
    judge $((i + 1)) "$@" &
    judges+=($!)
    wait "${judges[0]}" || status=1
    wait "${judges[1]}" || status=1
    judges=()
    [ $status = 0 ] || fail "vm$i@$1 or vm$((i + 1))@$1 is not what it must be"
  done
}

cleanup() {
  local i pid
  for ((i = 0; i < guests; i++)); do
    # The domain first: a file system over a door that is gone gives up, over one that waits for its backend it would wait.
    [ -n "${guest_pids[i]:-}" ] || continue
    pid=$(cat "$work/guest$i/pid" 2>/dev/null) && kill -9 "$pid" 2>/dev/null
    kill -TERM "${guest_pids[i]}" 2>/dev/null
    wait_end "${guest_pids[i]}" 100
  done
  for pid in "${judges[@]}"; do wait "$pid"; done
  if [ -n "$daemon" ]; then
    kill -TERM "$daemon" 2>/dev/null
    wait_end "$daemon" 100 || kill -9 "$daemon" 2>/dev/null
  fi
  if [ -n "$watchdog" ]; then
    kill -TERM "$watchdog" 2>/dev/null
    wait "$watchdog" 2>/dev/null
  fi
  [ -n "$work" ] || return
  awk -v w="$work/" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r at; do umount -l "$at"; done
  losetup -n -O NAME,BACK-FILE | awk -v w="$work/" 'index($2, w) == 1 { print $1 }' | while read -r loop; do losetup -d "$loop"; done
  [ -n "${KEEP:-}" ] || rm -rf --one-file-system "$work"
}

json_number() { grep -o "\"$1\": *[0-9]*" <<<"$2" | head -n 1 | grep -o '[0-9]*$'; }

# The short table at the end: times as measured here, space as the store counts it, rates as the guests' rings counted them.
table() {
  local used provisioned
  used=$(json_number used "$status") provisioned=$(json_number provisioned "$status")
  printf '\n   %-34s %s\n' "what" "measured"
  printf '   %-34s %s\n' "----" "--------"
  printf '   %-34s %d ms\n' "import of the template (2 GiB)" $((import_us / 1000))
  awk -v us="$clone_us" -v n="$clones" 'BEGIN { printf "   %-34s %.3f ms (%d in one step: %.0f ms)\n", "a clone", us / n / 1000, n, us / 1000 }'
  printf '   %-34s %d ms for all %d\n' "a snapshot at one instant" $(((point_after - point_before) / 1000)) "$guests"
  awk -v us="$snap_us" 'BEGIN { printf "   %-34s %.1f ms\n", "a snapshot of one running disk", us / 1000 }'
  awk -v u="$used" -v p="$provisioned" 'BEGIN {
    printf "   %-34s %.2f GiB of %.0f GiB provisioned (%.4f %%)\n", "space used", u / 2^30, p / 2^30, 100 * u / p }'
  sed -n 's/^ring //p' "$work"/guest*/out | awk '{
      delete v
      for (i = 1; i <= NF; i++) { split($i, p, "="); v[p[1]] = p[2] }
      s = v["seconds"] > s ? v["seconds"] : s
      r += v["reads"]; w += v["writes"]; f += v["flushes"]; rb += v["read-bytes"]; wb += v["write-bytes"]
    } END {
      if (s <= 0) s = 1
      printf "   %-34s %.0f reads/s %.1f MiB/s, %.0f writes/s %.1f MiB/s, %.0f flushes/s\n", "all rings together", r / s, rb / s / 2^20, w / s, wb / s / 2^20, f / s
    }'
}
