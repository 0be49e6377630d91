# lib.sh - what the rig's scenarios are written with; runs in dom0, in busybox's shell.
#
# A scenario prints "ok NAME", "not ok NAME - why" and notes ("# …"). in DOMAIN COMMAND runs a command in another domain, by the
# xenstore nodes that that domain's agent watches.
failures=0
consoles=/var/log/xen/console
now() { cut -d' ' -f1 /proc/uptime; }
note() { echo "# $(now) $*"; }
ok() { echo "ok $*"; note "done"; }
bad() { echo "not ok $*"; failures=$((failures + 1)); }
# check NAME COMMAND…: one line of result; what the command printed follows a failure.
check() {
  local name=$1 status; shift
  "$@" >/tmp/check.out 2>&1; status=$?
  if [ $status = 0 ]; then ok "$name"; else bad "$name - status $status"; tail -20 /tmp/check.out | sed 's/^/#   /'; fi
  return $status
}
# until_true SECONDS COMMAND…
until_true() {
  local limit=$(($1 * 20)) i=0; shift
  until "$@" >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt $limit ] || return 1; usleep 50000; done
}

# ---- Commands in other domains ----
# start DOMAIN COMMAND: begins it, without waiting
start() {
  local id number; id=$(xl domid "$1") || return 125
  number=$(($(cat /tmp/number 2>/dev/null || echo 0) + 1)); echo $number >/tmp/number
  if ! xenstore-exists "/local/domain/$id/cmd"; then
    xenstore-write "/local/domain/$id/cmd" ""; xenstore-chmod "/local/domain/$id/cmd" n0 "r$id"
  fi
  xenstore-write "/local/domain/$id/cmd" "$number $2" && echo $number >"/tmp/number.$id"
}
# finish DOMAIN [SECONDS]: waits for what was begun; prints what it printed; its status (124: too late, 125: no such domain)
finish() {
  local id limit=$((${2:-120} * 20)) i=0 reply want
  id=$(xl domid "$1") || return 125
  want=$(cat "/tmp/number.$id")
  while reply=$(xenstore-read "/local/domain/$id/data/reply" 2>/dev/null); [ "${reply%% *}" != "$want" ]; do
    i=$((i + 1)); [ $i -lt $limit ] || { echo "no answer from $1"; return 124; }
    xenstore-exists "/local/domain/$id" || return 125
    usleep 50000
  done
  xenstore-read -R "/local/domain/$id/data/out"; echo # it has no newline at its end
  return "${reply#* }"
}
in_domain() { start "$1" "$2" && finish "$1" "${3:-}"; }

# ---- Domains ----
# config NAME MEMORY ROLE EXTRA LINE…: writes /tmp/NAME.cfg
config() {
  local name=$1 memory=$2 role=$3 extra=$4; shift 4
  {
    printf 'name="%s"\nkernel="/boot/vmlinux"\nramdisk="/boot/%s.cpio"\nmemory=%s\n' "$name" "$role" "$memory"
    # rodata=off: the page tables of a PV kernel are Xen's to change, one call each, and the emulation makes that slow
    printf 'extra="console=hvc0 panic=-1 loglevel=4 rodata=off role=%s %s"\n' "$role" "$extra"
    printf 'on_poweroff="destroy"\non_crash="destroy"\n'
    printf '%s\n' "$@"
  } >"/tmp/$name.cfg"
}
# create NAME: and waits until its agent listens
create() {
  xl create -q "/tmp/$1.cfg" && in_domain "$1" true
}
disk() { echo "format=raw,vdev=$1,access=${3:-rw},backendtype=phy,backend=storage,target=$2"; }
no_node() { ! xenstore-exists "$1"; }

# ---- The storage domain ----
storage() { in_domain storage "export PARALLAX_STORE=/store; $1" "${2:-}"; }
