# nbd_lib.sh - what the tests of the NBD door share; sourced after lib.sh.
#
#   serve NAME… [OPTION…]   starts parallax nbd on $sock, waits for its URI; sets $server
#   end_server SIGNAL       ends it and sets $server_rc
#   uri [NAME]              the URI of an export
#   shell FILE              runs an nbdsh script on the default export
# shellcheck shell=bash
# shellcheck disable=SC2154 # work, O, pids are lib.sh's
sock=$work/nbd.sock server=''
for tool in nbdkit nbdinfo nbdcopy qemu-img fio; do
  command -v $tool >/dev/null || { echo "skip nbd: $(basename "$0") - $tool is missing; run make deps"; exit 0; }
done
[ -e "$O/nbdkit-parallax-plugin.so" ] || { echo "not ok nbd: $(basename "$0") - the plugin is not built; run make"; exit 1; }

uri() { echo "nbd+unix:///${1:-}?socket=$sock"; }

serve() {
  : >"$work/server.out"
  "$O/parallax" nbd --socket "$sock" "$@" >"$work/server.out" 2>"$work/server.err" </dev/null &
  server=$!
  pids+=("$server")
  for _ in $(seq 300); do
    grep -q '^nbd+unix:' "$work/server.out" && return 0
    kill -0 $server 2>/dev/null || break
    sleep 0.05
  done
  note_failure "parallax nbd does not serve: $(tail -n 3 "$work/server.err")"
  return 1
}

end_server() { # SIGNAL
  kill "-${1:-TERM}" "$server" 2>/dev/null
  wait "$server" 2>/dev/null
  server_rc=$?
  server=''
  pids=()
}

# nbdsh takes the python3 that it finds first, which need not be the one that it was installed for.
shell() { PATH=/usr/bin:$PATH timeout 120 nbdsh -u "$(uri "${2:-}")" -c "exec(open('$1').read())" >"$work/shell.out" 2>&1; }

# command DESCRIPTION…: a command of somebody else's that must succeed within two minutes.
does() { timeout -k 5 120 "$@" >"$work/tool.out" 2>&1 </dev/null || note_failure "$*: $(tail -n 3 "$work/tool.out")"; }
# Whether FILTER holds for the JSON in FILE.
holds() { jq -e "$1" "$2" >/dev/null 2>&1; } # FILTER FILE
same_bytes() { cmp -s "$1" "$2" || note_failure "$1 and $2 differ: $(cmp "$1" "$2" 2>&1)"; }
wait_released() { # NAME: until nobody holds it
  for _ in $(seq 100); do px info "$1" --json; json '.holder==null' && return 0; sleep 0.05; done
  note_failure "$1 is still held: $(jq -c .holder "$work/out")"
}
wait_gone() { # PID, which is no child
  for _ in $(seq 100); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done
  note_failure "process $1 lives on"
}

# A raw file of SIZE with data here and there, the same for every run.
sparse_file() { # FILE SIZE-MIB
  truncate -s "$2M" "$1"
  local at
  for at in 0 1 5 "$(($2 / 2))" "$(($2 - 1))"; do
    openssl enc -aes-128-ctr -K 000102030405060708090a0b0c0d0e0f -iv "0000000000000000000000000000000$((at % 10))" -nosalt \
      -in /dev/zero 2>/dev/null | head -c 900000 | dd of="$1" bs=64K seek=$((at * 16)) conv=notrunc iflag=fullblock status=none
  done
  truncate -s "$2M" "$1"
}
