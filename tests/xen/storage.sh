#!/bin/sh
# storage.sh: guests of a storage domain that is not dom0, with the store on a disk of its own: attach and detach, data, snapshots,
# restarts of the daemon, every kind of ring, refusals, and the end of it all without a trace. /parts names the parts to do (all).
. /lib.sh
load() { for m; do insmod "/modules/$m.ko" || note "cannot load $m"; done; }
load virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk xen-blkback
until_true 5 test -b /dev/vda || { bad "the store's disk - no /dev/vda"; exit 1; }

# Starts the daemon, with options, and waits until it has said once more that it serves.
serve() {
  storage "touch /run/parallaxd.log; n=\$(grep -c '^ready' /run/parallaxd.log); (parallaxd $* 2>>/run/parallaxd.log &)
    i=0; until [ \$(grep -c '^ready' /run/parallaxd.log) -gt \$n ]; do i=\$((i + 1)); [ \$i -lt 600 ] || exit 1; usleep 100000; done"
}
start_storage() {
  config storage 512 storage "" 'driver_domain=1' \
    "disk=['format=raw,vdev=xvda,access=rw,backendtype=phy,script=/bin/hotplug-device,target=/dev/vda']"
  create storage && backend=/local/domain/$(xl domid storage)/backend/vbd
}
nothing_left() { ! xenstore-ls -f "${backend%/vbd}" 2>/dev/null | grep "^$backend/[0-9]"; }
device() { storage "parallax --json status | tr -d ' ,\"' | sed -n '/^devices:/,\$p' | sed -n 's/^$1://p'"; }

check "the storage domain starts" start_storage || { cat $consoles/guest-storage.log; exit 1; }
check "a store is made on its disk" storage "mount -t ext4 /dev/xvda /store && parallax init --size 1G && parallax create template 192M" || exit 1
check "parallaxd serves on Xen" serve || { storage "cat /run/parallaxd.log"; exit 1; }
check "it says so" storage "grep -q 'hypervisor=xen' /run/parallaxd.log"
check "a template is cloned" storage "parallax template template && parallax clone --count 4 template disk"

# ---- Data ----
config g1 160 guest "" "disk=['$(disk xvda disk0)']"
check "a guest attaches its clone" create g1 || { cat $consoles/guest-g1.log; storage "cat /run/parallaxd.log"; exit 1; }
check "the guest makes a file system" in_domain g1 "mkfs.ext4 -q /dev/xvda && mount /dev/xvda /mnt && dd if=/dev/urandom of=/mnt/file bs=64k count=64 && sync && md5sum /mnt/file >/run/sum" || in_domain g1 "dmesg | tail -5; dd if=/dev/xvda bs=1024 skip=1 count=1 2>/dev/null | hexdump -C | head -8" | sed 's/^/#   /'
check "what it reads after dropping its cache is what it wrote" in_domain g1 "echo 3 >/proc/sys/vm/drop_caches && md5sum -c /run/sum"
check "its file system is sound" in_domain g1 "umount /mnt && e2fsck -fn /dev/xvda"

config g2 160 guest bf=max_ring_page_order=2 'vcpus=2' "disk=['$(disk xvda disk1)']"
check "a guest with two processors attaches another clone" create g2

# Rings of several queues and pages, large requests.
part_rings() {
  check "it has two queues of four pages" sh -c ". /lib.sh; id=\$(xl domid g2); [ \$(xenstore-read /local/domain/\$id/device/vbd/51712/multi-queue-num-queues) = 2 ] && [ \$(xenstore-read /local/domain/\$id/device/vbd/51712/ring-page-order) = 2 ] && in_domain g2 'ls /sys/block/xvda/mq' | grep -qw 1"
  check "and the daemon serves them as such" storage "parallax --json status | tr -d ' ,' | grep -q '\"queues\":2' && parallax --json status | tr -d ' ,' | grep -q '\"ring-pages\":4'"
  check "it does not see the other guest's bytes" in_domain g2 "cmp -n 33554432 /dev/xvda /dev/zero"
  indirect=$(device indirect | tail -1) reads=$(device reads | tail -1)
  in_domain g2 "disk_load rate /dev/xvda read 1048576 4 3" | sed 's/^/# sequential 1 MiB reads: /'
  check "a sequential reader of 1 MiB uses indirect requests and no others" test $(($(device indirect | tail -1) - indirect)) = $(($(device reads | tail -1) - reads))
  requests=$(device reads | tail -1) sent=$(device events-sent | tail -1) received=$(device events-received | tail -1) batches=$(device batches | tail -1)
  in_domain g2 "disk_load rate /dev/xvda read 4096 32 5 random" | sed 's/^/# random 4 KiB reads at depth 32: /'
  requests=$(($(device reads | tail -1) - requests)) sent=$(($(device events-sent | tail -1) - sent))
  received=$(($(device events-received | tail -1) - received)) batches=$(($(device batches | tail -1) - batches))
  note "for $requests requests: notifications sent $sent, received $received, batches $batches"
  check "at depth 32 there are fewer notifications than half the requests" test $((sent * 2)) -lt "$requests"
}

# Snapshots of a running guest, rollback, space given back.
part_snapshots() {
  check "a snapshot is taken while the guest writes" sh -c ". /lib.sh; in_domain g1 'mkfs.ext4 -q /dev/xvda && mount /dev/xvda /mnt && dd if=/dev/urandom of=/mnt/before bs=64k count=32 && sync && md5sum /mnt/before | cut -c1-32 >/run/sum' && start g1 'dd if=/dev/urandom of=/mnt/after bs=64k count=200' && storage 'parallax snap create disk0@s1' && finish g1"
  check "it is attached read-only as a second disk" xl block-attach g1 "$(disk xvdb disk0@s1 ro)"
  check "mounts, and equals what was synced before it" in_domain g1 "i=0; until [ -b /dev/xvdb ]; do usleep 100000; i=\$((i+1)); [ \$i -lt 100 ] || exit 1; done; [ \$(cat /sys/block/xvdb/ro) = 1 ] && mkdir -p /snap && mount -t ext4 -o ro,noload /dev/xvdb /snap && [ \$(md5sum /snap/before | cut -c1-32) = \$(cat /run/sum) ] && umount /snap"
  check "and is detached" xl block-detach g1 xvdb
  check "without leaving a node" until_true 10 no_node "$backend/$(xl domid g1)/51728"
  used() { storage "parallax --json info disk0" | tr -d ' ,"' | sed -n 's/^used://p'; }
  storage "parallax snap rm disk0@s1" >/dev/null
  in_domain g1 "sync" >/dev/null; before=$(used)
  in_domain g1 "rm /mnt/after && sync && fstrim /mnt" >/dev/null; after=$(used)
  note "used before fstrim $before, after $after"
  check "fstrim gives the space back" test "$after" -lt $((before - 8000000))
  check "a snapshot to return to" storage "parallax snap create disk0@s2"
  in_domain g1 "rm /mnt/before; sync; umount /mnt" >/dev/null
  id=$(xl domid g1); xl destroy g1
  check "a destroyed guest's disk is gone from the xenstore" until_true 20 no_node "$backend/$id"
  check "rollback with the guest off" storage "parallax snap rollback disk0@s2"
  check "it boots again" create g1
  check "and finds the old state" in_domain g1 'mount /dev/xvda /mnt && md5sum /mnt/before && umount /mnt'
}

# The daemon goes and comes under a guest that verifies what it reads.
part_restarts() {
  in_domain g2 "dmesg | wc -l >/run/lines; (disk_load verify /dev/xvda 900 >/run/verify 2>&1; echo \$? >/run/verify.status) & sleep 2" >/dev/null
  check "kill -9 of the daemon under load" storage "kill -9 \$(pidof parallaxd); while pidof parallaxd; do usleep 100000; done"
  check "a new one takes the devices up" serve
  sleep 5
  check "SIGTERM under load" storage "kill \$(pidof parallaxd); while pidof parallaxd; do usleep 100000; done"
  check "and another" serve
  sleep 5
  in_domain g2 "kill \$(pidof disk_load); while [ ! -s /run/verify.status ]; do usleep 100000; done; cat /run/verify" | sed 's/^/# /'
  check "the verifying guest saw no wrong byte" in_domain g2 '[ $(cat /run/verify.status) = 0 ]'
  check "and no line in its kernel's log" in_domain g2 'dmesg | tail -n +$(($(cat /run/lines) + 1)); [ $(dmesg | wc -l) = $(cat /run/lines) ]'
}

# Sizes, attaching and detaching, destroying.
part_churn() {
  check "a larger size" storage "parallax resize disk1 256M"
  check "reaches the guest" until_true 20 in_domain g2 '[ $(cat /sys/block/xvda/size) = 524288 ]'
  attaches=$(cat /attaches) slowest=0 n=0
  while [ $n -lt "$attaches" ]; do
    from=$(now)
    xl block-attach g2 "$(disk xvdc disk2)" >/tmp/attach.out 2>&1 && xl block-detach g2 xvdc >>/tmp/attach.out 2>&1 || break
    n=$((n + 1)) took=$(awk "BEGIN { print $(now) - $from }")
    slowest=$(awk "BEGIN { print ($took > $slowest ? $took : $slowest) }")
  done
  if [ $n = "$attaches" ]; then ok "attached and detached $n times"; else bad "attach and detach - failed at $n"; sed 's/^/# /' /tmp/attach.out; fi
  note "slowest pair $slowest s"
  start g2 "disk_load verify /dev/xvda 300"
  sleep 2
  check "a guest is destroyed under load" xl destroy g2
  check "its image is free" until_true 20 writable disk1
}
writable() { storage "parallax write $1 0 </etc/passwd"; }

# Images that cannot be had: the reason is told in the log, and nothing is left behind.
refused() { # NAME WORDS DISK
  if xl block-attach g1 "$3" >/tmp/refused.out 2>&1; then bad "$1 - it was attached"; xl block-detach g1 xvdd; return; fi
  sed 's/^/# xl: /' /tmp/refused.out | head -4
  check "$1: the log says why" storage "grep -q \"$2\" /run/parallaxd.log"
  xl block-detach g1 xvdd >/dev/null 2>&1 # libxl leaves the nodes of a disk that it could not add
  check "$1: nothing is left" until_true 10 no_node "$backend/$(xl domid g1)/51760"
}
part_refusals() {
  refused "no such image" "no image 'nothing'" "$(disk xvdd nothing)"
  refused "a template asked for writing" "is a template and cannot be written" "$(disk xvdd template)"
  storage "parallax snap create disk3@frozen" >/dev/null
  refused "a snapshot asked for writing" "is a snapshot and cannot be written" "$(disk xvdd disk3@frozen)"
  check "the other disk is not touched" in_domain g1 "disk_load verify /dev/xvda 2"
}

# The cost beside the kernel's own backend: a second storage domain with xen-blkback on a disk like the first one's, the same guest, the
# same pattern on both disks in turn. In the emulation every system call and every change of domain costs many times what it does on
# a processor, and both backends are made of little else; so the ratio says something, the rates do not.
part_cost() {
  config kernel 512 storage "" 'driver_domain=1' \
    "disk=['format=raw,vdev=xvda,access=rw,backendtype=phy,script=/bin/hotplug-device,target=/dev/vdb']"
  check "a storage domain with the kernel's backend" create kernel
  in_domain kernel "insmod /modules/xen-blkback.ko" >/dev/null
  id=$(xl domid g2)
  start kernel "i=0; until xenstore-exists backend/vbd/$id/51744/params; do i=\$((i + 1)); [ \$i -lt 200 ] || exit 1; usleep 50000; done; xenstore-write backend/vbd/$id/51744/physical-device ca:0 backend/vbd/$id/51744/hotplug-status connected"
  check "serves the same guest" xl block-attach g2 "format=raw,vdev=xvdc,access=rw,backendtype=phy,backend=kernel,target=/dev/xvda"
  finish kernel
  in_domain g2 "i=0; until [ -b /dev/xvdc ]; do usleep 100000; i=\$((i+1)); [ \$i -lt 100 ] || exit 1; done; for d in xvda xvdc; do dd if=/dev/zero bs=1M count=128 | tr '\\0' x | dd of=/dev/\$d bs=1M conv=fsync; done" 300 >/dev/null 2>&1
  for pattern in "read 4096 32 3 random" "write 4096 32 3 random" "read 65536 8 3 random"; do
    in_domain g2 "for round in 1 2 3; do for d in xvda xvdc; do echo \$d \$(disk_load rate /dev/\$d $pattern); done; done" 120 | sed 's/.*\(xvd.\).*rate=/\1 /' >/tmp/rates
    awk -v p="$pattern" '{ sum[$1] += $2 } END { printf "# cost: %s: parallaxd %d, xen-blkback %d requests a second, ratio %.2f\n", p, sum["xvda"] / 3, sum["xvdc"] / 3, sum["xvda"] / (sum["xvdc"] ? sum["xvdc"] : 1) }' /tmp/rates
  done
  xl destroy kernel
}

# What the daemon has logged, as far as it fits an answer.
part_log() { storage "cat /run/parallaxd.log" | sed 's/^/# /'; }

# The storage domain goes: its guests with it, no image.
part_end() {
  xl destroy g1; xl destroy g2 2>/dev/null
  check "no node is left behind" until_true 20 nothing_left
  lsevtchn "$(xl domid storage)" >/tmp/channels
  check "no channel of a guest is left" sh -c "! grep -E 'Interdomain \(Connected\) - Remote Domain ([2-9]|[1-9][0-9]+)' /tmp/channels" || sed 's/^/#   /' /tmp/channels
  check "the store is sound" storage "parallax check"
  part_log
  check "the storage domain is destroyed" xl destroy storage
  check "and starts again" start_storage
  check "its store is sound" storage "mount -t ext4 /dev/xvda /store && parallax check"
  check "a new daemon serves it" serve
  check "and a guest its disk" create g1
}

parts=$(cat /parts)
for part in ${parts:-rings snapshots restarts cost churn refusals end}; do
  note "part $part"
  "part_$part"
done
[ $failures = 0 ] || part_log
exit $failures
