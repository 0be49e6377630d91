# lib.sh - what the tests of the command line share; sourced by tests/e2e/cli_*.test.
#
# Each test file has a directory, a store and an embedded hypervisor of its own, and ends only processes that it started.
#   px ARGS…            runs parallax; status in $rc, output in $work/out and $work/err
#   good ARGS…          parallax must end with 0
#   bad N REGEX ARGS…   parallax must end with N (a shell pattern) and say one line on stderr that matches REGEX
#   json FILTER         whether jq's FILTER holds for the output
#   expect TEXT COND…   a condition (a command) must hold
#   check NAME FUNCTION runs a test and prints its line
# both_modes runs every function given to it without a daemon and with one.
set -u
O=$(realpath "${O:-build}")
for program in parallax parallaxd parallax-hypervisor; do
  [ -x "$O/$program" ] || { echo "not ok cli: $(basename "$0") - $O/$program is not built; run make tests"; exit 1; }
done
work=$(mktemp -d /var/tmp/parallax-cli.XXXXXX) || exit 1
export PARALLAX_CONFIG=/dev/null PARALLAX_STORE=$work/store PARALLAX_HYPERVISOR_DIR=$work/hv PARALLAX_HYPERVISOR_BIN=$O/parallax-hypervisor
mkdir "$work/hv"
daemon='' pids=() mounts=() mode='no daemon' why='' skipped='' loop='' rc=0

# Ends a process that this script started, whose number is known.
end_process() { # PID SIGNAL
  kill "-$2" "$1" 2>/dev/null
  for _ in $(seq 100); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done
  kill -KILL "$1" 2>/dev/null
}

cleanup() {
  [ -n "$daemon" ] && end_process "$daemon" TERM
  for p in "${pids[@]}"; do end_process "$p" TERM; done
  [ -s "$work/hv/hypervisor.pid" ] && end_process "$(cat "$work/hv/hypervisor.pid")" TERM
  for m in "${mounts[@]}"; do umount -l "$m" 2>/dev/null; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

note_failure() { [ -n "$why" ] || why=$1; }

px() { timeout -k 5 60 "$O/parallax" "$@" >"$work/out" 2>"$work/err"; rc=$?; }

good() {
  px "$@"
  [ $rc = 0 ] || note_failure "parallax $*: status $rc, $(head -c 300 "$work/err")"
  [ $rc = 0 ]
}

bad() {
  local status=$1 pattern=$2
  shift 2
  px "$@"
  if [[ $rc != $status ]]; then
    note_failure "parallax $*: status $rc, not $status: $(head -c 300 "$work/err")"
  elif [ "$(grep -c '' "$work/err")" != 1 ] || ! grep -q '^parallax: ' "$work/err"; then
    note_failure "parallax $*: not one line of error: $(head -c 400 "$work/err")"
  elif ! grep -Eq -- "$pattern" "$work/err"; then
    note_failure "parallax $*: the error does not say /$pattern/: $(cat "$work/err")"
  fi
}

expect() {
  local what=$1
  shift
  "$@" || note_failure "$what"
}

# Whether the JSON that parallax printed has the property FILTER.
json() { jq -e "$1" "$work/out" >/dev/null 2>&1; }

# Everything that a refused command must leave as it was.
state() { "$O/parallax" ls --json; "$O/parallax" du --json; }

# A loop device of FILE into $loop; where there is none the test is skipped from here.
loop_device() { # FILE
  loop=$(losetup -f --show "$1" 2>"$work/losetup") || { loop='' skipped="no loop device to be had: $(tail -1 "$work/losetup")"; return 1; }
}

check() { # NAME FUNCTION
  why='' skipped=''
  "$2"
  if [ -z "$why" ] && [ -n "$skipped" ]; then
    echo "skip cli: $1 - $skipped"
  elif [ -z "$why" ]; then echo "ok cli: $1 ($mode)"; else echo "not ok cli: $1 ($mode) - ${why//$'\n'/ / }"; fi
}

start_daemon() { # OPTION…
  : >"$work/daemon.log" # what an earlier daemon said must not be taken for this one's "ready"
  "$O/parallaxd" --hypervisor local "$@" >"$work/daemon.log" 2>&1 &
  daemon=$!
  for _ in $(seq 200); do
    grep -q '^\(<.>\)\?ready ' "$work/daemon.log" && return 0
    kill -0 $daemon 2>/dev/null || break
    sleep 0.1
  done
  echo "# parallaxd is not ready: $(tail -3 "$work/daemon.log")"
  return 1
}

stop_daemon() { # SIGNAL
  local pid=$daemon
  daemon=''
  [ -n "$pid" ] && kill "-${1:-TERM}" "$pid" && wait "$pid" 2>/dev/null
}

# Image names, one line.
names() { "$O/parallax" ls | tr '\n' ' '; }

# Runs FUNCTION, which calls check, on a fresh store in each mode.
both_modes() {
  local body
  for body; do
    mode='no daemon'
    rm -rf "$PARALLAX_STORE" && "$O/parallax" -q init --size "${store_size:-1G}" && "$body"
    mode='daemon'
    rm -rf "$PARALLAX_STORE" && "$O/parallax" -q init --size "${store_size:-1G}" && start_daemon && "$body"
    stop_daemon TERM || { why="parallaxd ended with status $?"; echo "not ok cli: the daemon ends well after $body - $why: $(tail -3 "$work/daemon.log" | tr '\n' ' ')"; }
    mode='no daemon'
    px check
    [ $rc = 0 ] || echo "not ok cli: the store is sound after $body - $(head -3 "$work/out" "$work/err" | tr '\n' ' ')"
  done
}
