# lib.sh - what the measurements share: a working directory, the engines, medians. Sourced by bench/run only.
# shellcheck shell=bash
# shellcheck disable=SC2154 # O, work and seconds are the caller's

say() { [ -n "$json" ] || printf '%s\n' "$*"; }
progress() { printf '%s\n' "$*" >&2; }
die() { echo "bench: $*" >&2; exit 1; }
now_us() { echo "${EPOCHREALTIME/./}"; }
px() { timeout -k 5 600 "$O/parallax" "$@"; }
record() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$work/results"; } # WORKLOAD ENGINE VALUE

# The median of column 3 where columns 1 and 2 are the arguments; nothing if there is none.
median() {
  awk -F '\t' -v w="$1" -v e="$2" '$1 == w && $2 == e { print $3 }' "$work/results" | sort -g |
    awk '{ v[NR] = $1 } END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# wait_line FILE PATTERN SECONDS PID: until FILE has a line that matches; 1 if PID ends or time is up first.
wait_line() {
  local i
  for ((i = 0; i < $3 * 20; i++)); do
    grep -q "$2" "$1" 2>/dev/null && return 0
    kill -0 "$4" 2>/dev/null || return 1
    sleep 0.05
  done
  return 1
}

# attach_client PID: gives the disk to the ring_client that writes to $work/client. The domain that had it before may still
# be on its way out.
attach_client() {
  local domid i
  wait_line "$work/client" domid= 20 "$1" || die "ring_client did not join: $(tail -n 2 "$work/client.err")"
  domid=$(sed -n 's/^guest .*domid=\([0-9]*\).*/\1/p' "$work/client")
  for ((i = 0; i < 50; i++)); do
    px -q attach bench "$domid" --vdev xvda >/dev/null 2>"$work/attach.err" && return
    sleep 0.1
  done
  die "$(cat "$work/attach.err")"
}

# The workloads in their order: name, fio's rw, block size, depth. Random writes scatter what a copy-on-write store keeps, so
# the sequential read stands here twice: after a sequential write, and after random ones (aged).
workloads() {
  local line
  # shellcheck disable=SC2053 # a pattern
  while read -r line; do [[ ${line%% *} == ${WORKLOADS:-*} ]] && echo "$line"; done <<'LIST'
write-128k-qd32 write 131072 32
read-128k-qd32 read 131072 32
randread-4k-qd32 randread 4096 32
randread-4k-qd1 randread 4096 1
randwrite-4k-qd32 randwrite 4096 32
randwrite-4k-qd1 randwrite 4096 1
read-128k-qd32-aged read 131072 32
LIST
}

# fio_rate RW BS DEPTH ENGINE-OPTIONS…: I/Os a second over $seconds. Terse output, version 3: field 8 is read, 49 write IOPS.
fio_rate() {
  local rw=$1 bs=$2 depth=$3
  shift 3
  local field=49 line
  case $rw in *read) field=8 ;; esac
  line=$(timeout -k 5 $((seconds + 60)) fio --name=bench --rw="$rw" --bs="$bs" --iodepth="$depth" --size="$size" --runtime="$seconds" \
    --time_based --randrepeat=0 --norandommap --refill_buffers --output-format=terse --terse-version=3 "$@" </dev/null 2>"$work/fio.err" | grep '^3;') ||
    die "fio $rw failed: $(tail -n 2 "$work/fio.err")"
  cut -d ';' -f $field <<<"$line"
}

raw_rate() { fio_rate "$@" --ioengine=libaio --direct=1 --filename="$work/raw.img"; }
qcow2_rate() { fio_rate "$@" --ioengine=nbd --uri="nbd+unix:///?socket=$work/nbd.sock"; }
