# lib.sh - what the rig's scenarios are written with; runs in dom0, in busybox's shell.
#
# A scenario prints "ok NAME", "not ok NAME - why" and notes ("# …"). in_domain DOMAIN COMMAND runs a command in another domain, by
# the xenstore nodes that that domain's agent watches.
failures=0
consoles=/var/log/xen/console
now() { local t; read -r t _ </proc/uptime; echo $t; }
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
# until_true SECONDS COMMAND…: so long, and at least twice a second of them (the machine may have stood still). What the command
# printed the last time is in /tmp/until.out.
until_true() {
  local end=$(($(now | cut -d. -f1) + $1)) tries=$(($1 * 2)); shift
  until "$@" >/tmp/until.out 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || [ "$(now | cut -d. -f1)" -lt $end ] || { cat /tmp/until.out; return 1; }
    usleep 50000
  done
}

# ---- Commands in other domains (rig.c says more) ----
start() { rig start "$@"; }
finish() { rig finish "$@"; }
in_domain() { rig run "$@"; }

# ---- Domains ----
# What a guest's kernel does at its start and nothing here needs, a second or more for each in the emulation: measuring its clock by a
# timer that Xen emulates (Xen tells it the time; the TSC itself stays), testing its ciphers.
quick_guest="clearcpuid=tsc lpj=2000000 cryptomgr.notests"
# config NAME MEMORY ROLE EXTRA LINE…: writes /tmp/NAME.cfg
config() {
  local name=$1 memory=$2 role=$3 extra=$4; shift 4
  {
    printf 'name="%s"\nkernel="/boot/vmlinux"\nramdisk="/boot/%s.cpio"\nmemory=%s\n' "$name" "$role" "$memory"
    printf 'extra="console=hvc0 panic=-1 loglevel=4 %s role=%s %s"\n' "$(grep -o 'rodata=.*' /proc/cmdline) $quick_guest" "$role" "$extra"
    printf 'on_poweroff="destroy"\non_crash="destroy"\non_reboot="restart"\n'
    printf '%s\n' "$@"
  } >"/tmp/$name.cfg"
}
# create NAME: and waits until its agent listens
create() {
  xl create -q "/tmp/$1.cfg" && in_domain "$1" true
}
# within SECONDS COMMAND…: 124 if it takes longer; what it began may go on then.
within() {
  local end=$(($(now | cut -d. -f1) + $1)) pid; shift
  "$@" & pid=$!
  while kill -0 $pid 2>/dev/null; do
    [ "$(now | cut -d. -f1)" -lt $end ] || { kill $pid; return 124; }
    usleep 200000
  done
  wait $pid
}
# again_if_emulation_fails NAME COMMAND…: with the PVH guest NAME. QEMU's emulation of svm now and then gives a guest a register of Xen's
# own, and the guest ends by a triple fault, or stands still before its kernel says a word (COMMAND is to end with 124 then); that says
# nothing about its disk. What COMMAND said is in /tmp/again.out.
again_if_emulation_fails() {
  local name=$1 n=0 status; shift
  xl dmesg -c >/dev/null
  until "$@" >/tmp/again.out 2>&1; do
    status=$?
    n=$((n + 1)); [ $n -lt 4 ] && { [ $status = 124 ] || xl dmesg -c | grep "Triple fault"; } || return
    note "the emulation ended the PVH guest; once more"
    xl destroy $name 2>/dev/null
  done
}
load() { for m; do insmod "/modules/$m.ko" || note "cannot load $m"; done; }
no_node() { ! rig exists "$1"; }
gone() { ! rig id "$1" >/dev/null; }
# No domain that died is kept by somebody who has its pages mapped.
no_zombie() { ! xl list | grep '(null)'; }
# block_device DEVICE: shell code that waits for it
block_device() { echo "i=0; until [ -b /dev/$1 ]; do usleep 100000; i=\$((i + 1)); [ \$i -lt 300 ] || exit 1; done"; }

# ---- The storage domain ----
disk() { echo "format=raw,vdev=$1,access=${3:-rw},backendtype=phy,backend=storage,${4:+$4,}target=$2"; }
store=/store # its URL in there
storage() { in_domain storage "export PARALLAX_STORE='$store'; $1"; }
start_storage() {
  config storage 384 storage "" 'driver_domain=1' "vcpus=${storage_vcpus:-1}" "disk=[${1:-$storage_disks}]"
  create storage && backend=/local/domain/$(rig id storage)/backend/vbd
}
hotplug_disk() { echo "'format=raw,vdev=$1,access=${3:-rw},backendtype=phy,script=/bin/hotplug-device,target=$2'"; }
storage_disks=$(hotplug_disk xvda /dev/vda)
# Starts the daemon, with options, and waits until it has said once more that it serves.
serve() {
  storage "touch /run/parallaxd.log; n=\$(grep -c '^ready' /run/parallaxd.log); (parallaxd $* 2>>/run/parallaxd.log &)
    i=0; until [ \$(grep -c '^ready' /run/parallaxd.log) -gt \$n ]; do i=\$((i + 1)); [ \$i -lt 600 ] || exit 1; usleep 100000; done"
}
stop_daemon() { storage "kill ${1:-} \$(pidof parallaxd); while pidof parallaxd >/dev/null; do usleep 100000; done"; }
nothing_left() { ! xenstore-ls -f "${backend%/vbd}" 2>/dev/null | grep "^$backend/[0-9]"; }
# device GUEST VDEV NAME…: numbers of a device in the daemon's status, in a line
device() { storage "$(device_command "$@")"; }
device_command() {
  local id names=; id=$(rig id "$1"); local vdev=$2; shift 2
  for n; do names="$names${names:+,}.[\"$n\"]"; done
  echo "parallax --json status | jq -r '[.devices[] | select(.domid == $id and .vdev == $vdev) | $names | tostring] | join(\" \")'"
}
# What the daemon has logged, as far as it fits an answer.
show_log() { storage "cat /run/parallaxd.log" | sed 's/^/# /'; }
