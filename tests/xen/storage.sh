#!/bin/sh
# storage.sh: guests of a storage domain that is not dom0, with the store on disks of its own, its blocks on one of them without a file
# system (debian.sh and dom0.sh have a file for them): attach and detach, data, snapshots, restarts of the daemon, every kind of ring,
# refusals, and the end of it all without a trace. /parts names the parts to do (all).
. /lib.sh
load virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk xen-blkback
until_true 5 test -b /dev/vdc || { bad "the store's disks and one for the kernel's backend - no /dev/vdc"; exit 1; }
storage_disks="$(hotplug_disk xvda /dev/vda), $(hotplug_disk xvdb /dev/vdc)"
store='file:/store?device=/dev/xvdb'

check "the storage domain starts" start_storage || { cat $consoles/guest-storage.log; exit 1; }
check "a store is made on its disks" storage "mount -t ext4 /dev/xvda /store && parallax init && parallax create template 192M" || exit 1
check "parallaxd serves on Xen" serve || { storage "cat /run/parallaxd.log"; exit 1; }
check "it says so" storage "grep -q 'hypervisor=xen' /run/parallaxd.log"
check "a template is cloned" storage "parallax template template && parallax clone --count 8 template disk"

# ---- Data: the two guests of the other parts ----
part_data() {
  config g1 112 guest "" "disk=['$(disk xvda disk0)']"
  check "a guest attaches its clone" create g1 || { cat $consoles/guest-g1.log; storage "cat /run/parallaxd.log"; exit 1; }
  check "the guest makes a file system" in_domain g1 "mkfs.ext4 -q /dev/xvda && mount /dev/xvda /mnt && dd if=/dev/urandom of=/mnt/file bs=64k count=64 && sync && md5sum /mnt/file >/run/sum" || in_domain g1 "dmesg | tail -5; dd if=/dev/xvda bs=1024 skip=1 count=1 2>/dev/null | hexdump -C | head -8" | sed 's/^/#   /'
  check "what it reads after dropping its cache is what it wrote" in_domain g1 "echo 3 >/proc/sys/vm/drop_caches && md5sum -c /run/sum"
  check "its file system is sound" in_domain g1 "umount /mnt && e2fsck -fn /dev/xvda"

  config g2 112 guest bf=max_ring_page_order=2 'vcpus=2' "disk=['$(disk xvda disk1)']"
  check "a guest with two processors attaches another clone" create g2
}

# Rings of several queues and pages, large requests: as the xenstore, the guest and the daemon's counters tell.
frontend() { rig read "/local/domain/$(rig id "$1")/device/vbd/$2"; }
part_rings() {
  check "it has two queues" test "$(frontend g2 51712/multi-queue-num-queues)" = 2
  check "and rings of four pages" test "$(frontend g2 51712/ring-page-order)" = 2
  check "the guest's kernel uses both queues" in_domain g2 'ls /sys/block/xvda/mq | grep -qw 1'
  check "and the daemon serves them as such" test "$(device g2 51712 queues ring-pages)" = "2 4"
  check "it does not see the other guest's bytes" in_domain g2 "cmp -n 33554432 /dev/xvda /dev/zero"
  was=$(device g2 51712 indirect reads segments)
  in_domain g2 "disk_load rate /dev/xvda read 1048576 4 3" | sed 's/^/# sequential 1 MiB reads: /'
  set -- $was $(device g2 51712 indirect reads segments)
  indirect=$(($4 - $1)) reads=$(($5 - $2)) segments=$(($6 - $3))
  note "$reads requests, $indirect of them indirect, $segments segments"
  check "a sequential reader of 1 MiB uses indirect requests and no others" test $indirect -gt 0 -a $indirect = $reads
  # A read of what was never written is answered at once, and nothing is ever in flight.
  in_domain g2 "disk_load rate /dev/xvda write 1048576 4 6" | sed 's/^/# sequential 1 MiB writes: /'
  for batch in 1 8; do
    was=$(device g2 51712 reads events-sent events-received batches)
    in_domain g2 "disk_load rate /dev/xvda read 4096 32 4 random $batch" | sed "s/^/# random 4 KiB reads at depth 32, $batch at a time: /"
    set -- $was $(device g2 51712 reads events-sent events-received batches)
    requests=$(($5 - $1)) sent=$(($6 - $2)) received=$(($7 - $3)) batches=$(($8 - $4))
    note "for $requests requests: notifications sent $sent, received $received, batches $batches"
  done
  check "at depth 32 there are fewer notifications than half the requests" test $((sent * 2)) -lt "$requests" -a $((received * 2)) -lt "$requests"
}

used() { storage "parallax --json info $1 | jq .used"; }
uses_less() { [ "$(used $1)" -lt $2 ]; }

# Snapshots of a running guest, rollback, space given back.
part_snapshots() {
  check "a snapshot is taken while the guest writes" sh -c ". /lib.sh; in_domain g1 'mkfs.ext4 -q /dev/xvda && mount /dev/xvda /mnt && dd if=/dev/urandom of=/mnt/before bs=64k count=32 && sync && md5sum /mnt/before | cut -c1-32 >/run/sum' && start g1 'dd if=/dev/urandom of=/mnt/after bs=64k count=200' && storage 'parallax snap create disk0@s1' && finish g1"
  check "it is attached read-only as a second disk" xl block-attach g1 "$(disk xvdb disk0@s1 ro)"
  check "mounts, and equals what was synced before it" in_domain g1 "i=0; until [ -b /dev/xvdb ]; do usleep 100000; i=\$((i+1)); [ \$i -lt 100 ] || exit 1; done; [ \$(cat /sys/block/xvdb/ro) = 1 ] && mkdir -p /snap && mount -t ext4 -o ro,noload /dev/xvdb /snap && [ \$(md5sum /snap/before | cut -c1-32) = \$(cat /run/sum) ] && umount /snap"
  check "and is detached" xl block-detach g1 xvdb
  check "without leaving a node" until_true 10 no_node "$backend/$(rig id g1)/51728"
  storage "parallax snap rm disk0@s1" >/dev/null
  in_domain g1 "sync" >/dev/null; before=$(used disk0)
  in_domain g1 "rm /mnt/after && sync && fstrim -v /mnt" | sed 's/^/# /'
  check "fstrim gives the space back" until_true 20 uses_less disk0 $((before - 8000000))
  note "used before $before, after $(used disk0)"
  check "a snapshot to return to" storage "parallax snap create disk0@s2"
  in_domain g1 "rm /mnt/before; sync; umount /mnt" >/dev/null
  id=$(rig id g1); xl destroy g1
  check "a destroyed guest's disk is gone from the xenstore" until_true 20 no_node "$backend/$id"
  check "rollback with the guest off" storage "parallax snap rollback disk0@s2"
  check "it boots again" create g1
  check "and finds the old state" in_domain g1 'mount /dev/xvda /mnt && md5sum /mnt/before && umount /mnt'
}

# A clock that stood still with the machine is told, too; that is no word about a disk.
no_new_line='! dmesg | tail -n +$(($(cat /run/lines) + 1)) | grep -v "hrtimer: interrupt took\|clocksource\|random: crng init done"'
# The daemon goes and comes under a guest that verifies what it reads, and under one with a file system mounted.
part_restarts() {
  in_domain g2 "dmesg | wc -l >/run/lines; (disk_load verify /dev/xvda 900 >/run/verify 2>&1; echo \$? >/run/verify.status) & sleep 1" >/dev/null
  in_domain g1 "mount /dev/xvda /mnt && dd if=/dev/urandom of=/run/keep bs=64k count=32 && dmesg | wc -l >/run/lines; (n=0; while [ ! -e /run/stop ]; do
    cp /run/keep /mnt/f\$((n % 4)) && sync && echo 3 >/proc/sys/vm/drop_caches && cmp /run/keep /mnt/f\$((n % 4)) || { echo bad >/run/files; exit 1; }
    n=\$((n + 1)); done; echo good \$n >/run/files) >/run/files.log 2>&1 & sleep 1" >/dev/null
  for round in $(seq $(cat /restarts)); do
    for signal in -9 -TERM; do
      check "the daemon is ended with $signal under load" stop_daemon $signal
      check "a new one takes the devices up" serve
      in_domain g2 "sleep 3" >/dev/null
    done
  done
  in_domain g1 'touch /run/stop; while [ ! -s /run/files ]; do usleep 100000; done' >/dev/null
  in_domain g2 "kill \$(pidof disk_load); while [ ! -s /run/verify.status ]; do usleep 100000; done; cat /run/verify" | sed 's/^/# /'
  check "the verifying guest saw no wrong byte" in_domain g2 '[ $(cat /run/verify.status) = 0 ]'
  check "its longest pause was under 60 s" in_domain g2 'longest=$(sed -n "s/.*longest=\([0-9]*\).*/\1/p" /run/verify); [ "$longest" -lt 60 ]'
  check "and no line in its kernel's log" in_domain g2 "$no_new_line"
  check "the mounted guest read back what it wrote" in_domain g1 'cat /run/files /run/files.log; grep -q good /run/files'
  check "and no line in its kernel's log" in_domain g1 "$no_new_line"
  check "its file system is sound" in_domain g1 "umount /mnt && e2fsck -fn /dev/xvda"
}

# Sizes, attaching and detaching, destroying. What Xen counts afterwards is what it counted before.
channels() { lsevtchn "$(rig id storage)" | grep -c Interdomain; }
# The grants of a domain that the storage domain has mapped; Xen prints its tables, the mapped ones, into its log.
grants_in_use() {
  xl dmesg -c >/dev/null; xl debug-keys g
  xl dmesg | tr -d '\r' | awk -v id="$(rig id "$1")" -v backend="$(rig id storage)" '
    /grant-table for remote/ { on = $0 ~ "remote d" id " " } on && /\[0x/ && $3 == backend { n++ } END { print n + 0 }'
}
# attach_and_detach N: of g1; times, in hundredths of a second, go to /tmp/times. By four names in turn: Linux takes a disk that comes back
# before it has taken the old one of that name away for the old one.
hundredths() { local up; read -r up _ </proc/uptime; at=${up%.*}${up#*.}; }
attach_and_detach() {
  local name began vdev=$((51728 + 16 * ($1 % 4)))
  case $(($1 % 4)) in 0) name=xvdb;; 1) name=xvdc;; 2) name=xvdd;; 3) name=xvde;; esac
  hundredths; began=$at
  xl block-attach g1 "$(disk $name disk2)" && rig await $g1_backend/$vdev/state 4 60 || return
  hundredths; echo $((at - began)) >>/tmp/times; began=$at
  xl block-detach g1 $name || return
  hundredths; echo $((at - began)) >>/tmp/times
}
part_churn() {
  check "a larger size" storage "parallax resize disk1 256M"
  check "reaches the guest" until_true 20 in_domain g2 '[ $(cat /sys/block/xvda/size) = 524288 ]'
  channels=$(channels) grants=$(grants_in_use g1)
  attaches=$(cat /attaches) n=0 g1_backend=$backend/$(rig id g1); : >/tmp/times
  while [ $n -lt "$attaches" ] && attach_and_detach $n >/tmp/attach.out 2>&1; do n=$((n + 1)); done
  if [ $n = "$attaches" ]; then ok "attached and detached $n times"; else bad "attach and detach - failed at $n"; sed 's/^/# /' /tmp/attach.out; fi
  slow=$(awk '{ n += $1 >= 300 } END { print n + 0 }' /tmp/times) slowest=$(sort -n /tmp/times | awk 'END { print $1 / 100 }')
  note "attaching, until the guest's driver is connected, and detaching took $(awk '{ sum += $1 } END { print sum / NR / 100 }' /tmp/times) s on average, $slowest s at most"
  check "each in less than 3 s, but for $slow of $((attaches * 2))" test $((slow * 10)) -le $attaches
  check "no channel more than before" until_true 10 eval '[ $(channels) = $channels ]'
  check "no grant in use more than before ($grants)" until_true 10 eval '[ $(grants_in_use g1) -le $grants ]'
  xl block-attach g2 "$(disk xvdf disk2)"
  start g2 "$(block_device xvdf); disk_load rate /dev/xvdf write 4096 16 300 random"
  until_true 30 eval '[ $(device g2 51792 writes) -gt 20 ]'
  check "detached with requests under way" eval 'xl block-detach g2 xvdf'
  check "which end with an error, in the guest alone" eval '! finish g2 && in_domain g2 true'
  check "without leaving a node" until_true 10 no_node "$backend/$(rig id g2)/51792"
  start g2 "disk_load verify /dev/xvda 300"
  until_true 30 eval '[ $(device g2 51712 in-flight) -gt 0 ]'
  check "a guest is destroyed under load" xl destroy g2
  check "its image is free" until_true 20 writable disk1
}
writable() { storage "dd if=/dev/zero of=/tmp/block bs=4096 count=1 2>/dev/null; parallax write $1 0 </tmp/block"; }

# The ways a guest ends and comes back: reboot, crash, saved and restored, moved.
wrote() { in_domain g1 "mount /dev/xvda /mnt && echo $1 >/mnt/mark && sync"; }
kept() { in_domain g1 "[ \$(cat /mnt/mark) = $1 ] && dd if=/dev/urandom of=/mnt/more bs=64k count=16 && sync && umount /mnt && e2fsck -fn /dev/xvda"; }
new_domid() { [ "$(rig id g1 2>/dev/null || echo $1)" != "$1" ]; }
part_lives() {
  in_domain g1 "mkfs.ext4 -q /dev/xvda" >/dev/null; wrote reboot >/dev/null
  id=$(rig id g1); start g1 "umount /mnt; reboot -f"
  check "a guest reboots" until_true 60 new_domid "$id"
  check "and has its disk again" in_domain g1 '[ -b /dev/xvda ] && mount /dev/xvda /mnt && [ $(cat /mnt/mark) = reboot ]'
  id=$(rig id g1); start g1 "echo c >/proc/sysrq-trigger"
  check "a guest that crashes is cleaned up" until_true 30 gone g1
  check "its disk is gone from the xenstore" until_true 20 no_node "$backend/$id"
  check "and serves it again" create g1
  wrote saved >/dev/null
  check "a guest is saved" xl save g1 /run/g1.save
  check "its image is free meanwhile" until_true 20 storage "parallax snap create disk0@saved && parallax snap rm disk0@saved"
  check "and restored" xl restore /run/g1.save
  rm -f /run/g1.save
  check "and has what it had" kept saved
  # As in a migration: the new domain attaches while the old one, paused, still has the disk, with requests under way. (xl migrate itself
  # needs Xen to log what a guest writes to its memory; Debian's cannot for PV guests, and the emulation holds no PVH guest for long.)
  in_domain g1 "(disk_load verify /dev/xvda 900 >/run/verify 2>&1) & sleep 1" >/dev/null
  check "a guest is saved under load, and stays" xl save -p g1 /run/g1.save
  sed 's/^name=.*/name="g1--incoming"/' /tmp/g1.cfg >/tmp/incoming.cfg
  check "and is restored beside itself" xl restore /tmp/incoming.cfg /run/g1.save
  rm -f /run/g1.save
  id=$(rig id g1--incoming)
  check "its disk is held back as long as the old domain has it" until_true 20 held_back "$id"
  check "the old domain goes" eval 'xl destroy g1 && xl rename g1--incoming g1'
  check "then the new one has the disk" rig await $backend/$id/51712/state 4 20
  in_domain g1 "sleep 2; kill \$(pidof disk_load); while pidof disk_load; do usleep 100000; done" >/dev/null
  check "and it saw no wrong byte" in_domain g1 'cat /run/verify; grep "no wrong byte" /run/verify'
}
held_back() { storage "grep 'device waits for its image: domid=$1 ' /run/parallaxd.log" && [ "$(rig read $backend/$1/51712/state)" = 2 ]; }

# Images that cannot be had: the reason is told in the log and in the device's nodes, xl says that it failed, and nothing is left behind.
# libxl waits ten seconds for each, so for all at once.
ask() { xl block-attach g1 "$2" >/tmp/asked.$1 2>&1; echo $? >/tmp/asked.$1.status; } # VDEV DISK
refused() { # NAME WORDS VDEV NUMBER
  local node; node=$backend/$(rig id g1)/$4
  if [ "$(cat /tmp/asked.$3.status)" = 0 ]; then bad "$1 - it was attached"; xl block-detach g1 $3; return; fi
  sed 's/^/# xl: /' /tmp/asked.$3 | tail -1
  for n in error hotplug-error; do check "$1: the node $n says why" eval "rig read $node/$n | grep \"$2\""; done
  check "$1: the log says why" storage "grep -q \"$2\" /run/parallaxd.log"
  xl block-detach g1 $3 >/dev/null 2>&1 # libxl leaves the nodes of a disk that it could not add
  check "$1: nothing is left" until_true 10 no_node "$node"
}
part_refusals() {
  storage "parallax snap create disk3@frozen" >/dev/null
  ask xvdd "$(disk xvdd nothing)" & ask xvde "$(disk xvde template)" & ask xvdf "$(disk xvdf disk3@frozen)" & wait
  refused "no such image" "no image 'nothing'" xvdd 51760
  refused "a template asked for writing" "is a template and cannot be written" xvde 51776
  refused "a snapshot asked for writing" "is a snapshot and cannot be written" xvdf 51792
  check "the other disk is not touched" in_domain g1 "disk_load verify /dev/xvda 2"
}

# The cost beside the kernel's own backend: a second storage domain with xen-blkback on a disk like the first one's, the same guest, the
# same patterns on the disks in turn, in both data modes of ours. The kernel has no cache of blocks and ours has little of one, a twelfth of an
# image, which is full before the clock starts: most reads reach the device, and none is the first to touch a page of the cache. In the emulation every system call and every change of domain costs
# many times what it does on a processor, and both backends are made of little else; so the ratio says something, the rates do not.
part_cost() {
  config kernel 384 storage "" 'driver_domain=1' "disk=[$(hotplug_disk xvda /dev/vdb)]"
  check "a storage domain with the kernel's backend" create kernel
  in_domain kernel "insmod /modules/xen-blkback.ko" >/dev/null
  check "the daemon serves by copying" eval 'stop_daemon && serve --block-cache 16M'
  config g4 112 guest "" "disk=['$(disk xvda disk6)']"
  check "a guest for the cost" create g4
  id=$(rig id g4)
  start kernel "i=0; until rig exists backend/vbd/$id/51744/params; do i=\$((i + 1)); [ \$i -lt 200 ] || exit 1; usleep 50000; done; xenstore-write backend/vbd/$id/51744/physical-device ca:0 backend/vbd/$id/51744/hotplug-status connected"
  check "is served by it as well" xl block-attach g4 "format=raw,vdev=xvdc,access=rw,backendtype=phy,backend=kernel,target=/dev/xvda"
  finish kernel
  check "the daemon serves another disk by mapping" eval 'stop_daemon && serve --block-cache 16M --grants map && xl block-attach g4 "$(disk xvdb disk7)"'
  in_domain g4 "$(block_device xvdc); $(block_device xvdb); for d in xvda xvdb xvdc; do disk_load rate /dev/\$d write 262144 4 3; done; for d in xvda xvdb xvdc; do disk_load rate /dev/\$d read 65536 4 1; done" >/dev/null
  for pattern in "read 4096 32 1 random 8" "read 65536 32 1 random 8" "write 4096 32 1 random 8"; do
    in_domain g4 "for round in 1 2 3; do for d in xvda xvdc xvdb; do echo \$d \$(disk_load rate /dev/\$d $pattern); done; done" | sed -n 's/.*\(xvd.\).*rate=/\1 /p' >/tmp/rates
    awk '{ sum[$1] += $2; n[$1]++ } END { k = sum["xvdc"] / n["xvdc"]; printf "%d %d %d %.2f %.2f\n", sum["xvda"] / n["xvda"], sum["xvdb"] / n["xvdb"], k, sum["xvda"] / n["xvda"] / k, sum["xvdb"] / n["xvdb"] / k }' /tmp/rates >/tmp/cost
    read -r copy map kernel copy_ratio map_ratio </tmp/cost
    note "cost, $pattern: requests a second: copied $copy ($copy_ratio of xen-blkback's), mapped $map ($map_ratio), xen-blkback $kernel"
    # Of large reads most is the checksum, for which the emulated processor has no instruction.
    case $pattern in *4096*) check "$pattern: at least 0.7 of xen-blkback's rate" awk "BEGIN { exit !($copy_ratio >= 0.7) }";; esac
  done
  check "the mapping is by persistent grants" eval '[ "$(device g4 51728 persistent) $(device g4 51712 persistent)" = "true false" ] && [ $(device g4 51728 grants-mapped) -gt 0 ]'
  xl destroy kernel; xl destroy g4 # in this order: nobody in that domain takes the disk away, for which libxl would wait ten seconds
}

# The storage domain goes: its guests with it, no image.
part_end() {
  for g in g1 g2; do xl destroy $g 2>/dev/null; done
  check "no node is left behind" until_true 20 nothing_left
  check "no channel of a guest is left" until_true 10 eval '! lsevtchn $(rig id storage) | grep "Interdomain (Connected) - Remote Domain [1-9]"'
  check "no domain is left that somebody has mapped" until_true 10 no_zombie
  check "the store is sound" storage "parallax check"
  storage "parallax rm disk6 && parallax rm disk7" >/dev/null # what the cost was measured with, and most of what the next check reads
  check "a guest is there when the storage domain goes" create g1
  check "the storage domain is destroyed" xl destroy storage
  xl destroy g1
  check "and starts again" start_storage
  check "its store is sound" storage "mount -t ext4 /dev/xvda /store && parallax check"
  check "a new daemon serves it" serve
  check "and a guest its disk" create g1
}

parts=$(cat /parts)
for part in ${parts:-data rings snapshots restarts churn lives refusals cost end}; do
  note "part $part"
  "part_$part"
done
[ $failures = 0 ] || show_log
exit $failures
