# lib.sh - a storage domain of files (ring_backend), guests, and a toolstack, in a directory of their own. Sourced.
#
#   begin [BACKEND OPTIONS…]   makes $W with the embedded hypervisor in it and an image "disk", starts the backend
#   backend_start, backend_kill SIGNAL
#   guest NAME ARGUMENTS…      starts ring_client; its output goes to $W/NAME.out; sets guest_pid, guest_domid
#   attach DOMID VDEV IMAGE MODE
#   finish                     ends the processes this test started and removes $W
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
O=$(realpath "${O:-build}") P=$O/tests/programs
backend_options=()
pids=()

ok() { echo "ok $1"; }
not_ok() { echo "not ok $1 - $2"; failed=1; }
failed=0

backend_start() {
  : >"$W/backend.ready"
  "$P/ring_backend" "${backend_options[@]}" "$W/state" "$W/images" >"$W/backend.ready" 2>>"$W/backend.log" &
  backend=$!
  for _ in $(seq 500); do
    backend_domid=$(sed -n 's/^ready domid=\([0-9]*\).*/\1/p' "$W/backend.ready")
    [ -n "$backend_domid" ] && return 0
    kill -0 "$backend" 2>/dev/null || break
    sleep 0.01
  done
  echo "# the backend did not start:"; tail -5 "$W/backend.log" | sed 's/^/# /'
  return 1
}

backend_kill() { kill "-$1" "$backend" 2>/dev/null; wait "$backend" 2>/dev/null; }

begin() {
  W=$(mktemp -d /tmp/plx-ring-XXXXXX) || exit 1
  chmod 755 "$W" # guests of other users reach the hypervisor's directory
  export PARALLAX_HYPERVISOR_DIR=$W/hv PARALLAX_HYPERVISOR_BIN=$O/parallax-hypervisor
  mkdir -p "$W/hv" "$W/state" "$W/images"
  fallocate -l 64M "$W/images/disk" && fallocate -l 64M "$W/images/victim" || exit 1
  backend_options=("$@")
  trap finish EXIT
  backend_start
}

guest() { # NAME ARGUMENTS…
  local name=$1; shift
  : >"$W/$name.out"
  "$P/ring_client" "$@" >"$W/$name.out" 2>"$W/$name.err" &
  guest_pid=$!
  pids+=("$guest_pid")
  guest_domid=
  for _ in $(seq 500); do
    guest_domid=$(sed -n 's/^guest .*domid=\([0-9]*\).*/\1/p' "$W/$name.out")
    [ -n "$guest_domid" ] && return 0
    sleep 0.01
  done
  return 1
}

attach() { "$P/ring_attach" attach "$backend_domid" "$@"; }

finish() {
  local p
  for p in "${pids[@]}" "${backend:-}"; do [ -n "$p" ] && kill -9 "$p" 2>/dev/null; done
  wait 2>/dev/null
  [ -n "${KEEP:-}" ] && echo "# kept $W" || rm -rf "$W"
}
