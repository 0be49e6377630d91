#!/bin/sh
# dom0.sh: guests served from dom0, by script=block-parallax: what xl says when an image cannot be had, read-only disks and CD-ROMs, PVH
# guests, features hidden per image, mappings that stay, a hostile guest, and an image whose blocks are damaged. /parts names the parts to do (all).
. /lib.sh
export PARALLAX_STORE=/store
load virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc16 crc32c_generic mbcache jbd2 ext4
until_true 5 test -b /dev/vda || { bad "the store's disk - no /dev/vda"; exit 1; }
backend=/local/domain/0/backend/vbd
disk() { echo "format=raw,vdev=$1,access=${3:-rw},backendtype=phy,script=block-parallax,${4:+$4,}target=$2"; }
ready() { grep -c '^ready' /run/parallaxd.log; }
serve() {
  touch /run/parallaxd.log; local n; n=$(ready)
  parallaxd "$@" 2>>/run/parallaxd.log &
  until_true 60 eval "[ \$(ready) -gt $n ]"
}
stop_daemon() { kill "${1:--TERM}" "$(pidof parallaxd)" && until_true 60 eval '! pidof parallaxd'; }
node() { rig read "$backend/$(rig id "$1")/$2"; }
nothing_left() { ! xenstore-ls -f /local/domain/0/backend 2>/dev/null | grep 'backend/vbd/[0-9]'; }

mount -t ext4 /dev/vda /store
check "a store is made" eval 'parallax init --size 1G && parallax create template 64M && parallax template template && parallax clone --count 8 template disk'
check "parallaxd serves in dom0" serve --hide 'disk5:flush,discard,indirect,multi-page' --hide 'disk6:flush,barrier,small-sectors'
config g1 112 guest "" "disk=['$(disk xvda disk0)']"
check "a guest attaches its clone" create g1 || cat /run/parallaxd.log
check "makes a file system and reads back what it wrote" in_domain g1 "mkfs.ext4 -q /dev/xvda && mount /dev/xvda /mnt && dd if=/dev/urandom of=/mnt/file bs=64k count=16 && sync && md5sum /mnt/file >/run/sum && echo 3 >/proc/sys/vm/drop_caches && md5sum -c /run/sum && umount /mnt && e2fsck -fn /dev/xvda"

# ---- Images that cannot be had: xl prints the reason ----
refused() { # NAME WORDS DISK
  if xl block-attach g1 "$3" >/tmp/refused.out 2>&1; then bad "$1 - it was attached"; xl block-detach g1 xvdd; return; fi
  sed 's/^/# xl: /' /tmp/refused.out
  check "$1: xl says why" grep -q "$2" /tmp/refused.out
  xl block-detach g1 xvdd >/dev/null 2>&1 # libxl leaves the nodes of a disk that it could not add
  check "$1: nothing is left" until_true 10 no_node "$backend/$(rig id g1)/51760"
}
part_refusals() {
  refused "no such image" "no image 'nothing'" "$(disk xvdd nothing)"
  refused "a template asked for writing" "is a template and cannot be written" "$(disk xvdd template)"
  parallax snap create disk1@frozen
  refused "a snapshot asked for writing" "is a snapshot and cannot be written" "$(disk xvdd disk1@frozen)"
  refused "an image that another writer has" "domain $(rig id g1) xvda" "$(disk xvdd disk0)"
  config wrong 112 guest "" "disk=['$(disk xvda nothing)']"
  check "a guest whose image is not there does not start" eval '! xl create -q /tmp/wrong.cfg >/tmp/refused.out 2>&1 && grep "no image .nothing." /tmp/refused.out'
  check "and leaves nothing" eval 'gone wrong && [ "$(xenstore-list $backend)" = "$(rig id g1)" ]'
  check "the other disk is not touched" in_domain g1 "disk_load verify /dev/xvda 2"
}

# ---- Disks that are only read ----
part_read_only() {
  parallax snap create disk0@s1
  check "a snapshot is attached read-only" xl block-attach g1 "$(disk xvdb disk0@s1 ro)"
  check "and cannot be written" in_domain g1 "$(block_device xvdb); [ \$(cat /sys/block/xvdb/ro) = 1 ] && ! dd if=/dev/zero of=/dev/xvdb bs=4096 count=1 conv=fsync && dd if=/dev/xvdb of=/dev/null bs=1M count=8"
  check "its nodes say so" test "$(node g1 51728/info) $(node g1 51728/feature-discard)" = "4 0"
  check "and is detached" xl block-detach g1 xvdb
  check "a template as a CD-ROM" xl block-attach g1 "$(disk xvdc template ro devtype=cdrom)"
  check "is one, and is read" in_domain g1 "$(block_device xvdc); [ \$(cat /sys/block/xvdc/ro) = 1 ] && dd if=/dev/xvdc of=/dev/null bs=1M count=8 && ! dd if=/dev/zero of=/dev/xvdc bs=4096 count=1 conv=fsync"
  check "its nodes say so" eval 'case $(node g1 51744/info) in 5|7) ;; *) false;; esac'
  check "and is detached" xl block-detach g1 xvdc
}

# ---- What is offered, by image ----
part_features() {
  check "a disk with flush and more hidden" xl block-attach g1 "$(disk xvdb disk5)"
  check "does not offer them" test "$(node g1 51728/feature-flush-cache) $(node g1 51728/feature-barrier) $(node g1 51728/feature-discard) $(xenstore-exists "$backend/$(rig id g1)/51728/feature-max-indirect-segments"; echo $?)" = "0 1 0 1"
  check "the guest flushes by barriers then" in_domain g1 "$(block_device xvdb); mkfs.ext4 -q /dev/xvdb && mount /dev/xvdb /mnt && echo x >/mnt/x && sync && umount /mnt && e2fsck -fn /dev/xvdb"
  check "as the daemon counts" eval '[ $(device g1 51728 barriers) -gt 0 ] && [ $(device g1 51728 flushes) = 0 ]'
  check "another image's disk offers them" test "$(node g1 51712/feature-flush-cache) $(node g1 51712/feature-discard)" = "1 1"
  check "a disk that cannot flush at all" xl block-attach g1 "$(disk xvdc disk6)"
  check "is written through" in_domain g1 "$(block_device xvdc); grep -q 'write through' /sys/block/xvdc/queue/write_cache && disk_load verify /dev/xvdc 1"
  check "and has sectors of 4096 bytes, and its size" in_domain g1 "[ \$(cat /sys/block/xvdc/queue/logical_block_size) = 4096 ] && [ \$(cat /sys/block/xvdc/size) = 131072 ]"
  check "both are detached" eval 'xl block-detach g1 xvdb && xl block-detach g1 xvdc'
}
device() { sh -c "$(device_command "$@")"; }

# ---- A PVH guest; persistent grants; a restart; a new size ----
part_pvh() {
  config pvh 192 guest "" 'type="pvh"' "disk=['$(disk xvda disk2)']"
  again_if_emulation_fails pvh within 120 create pvh
  check "a PVH guest attaches its clone" in_domain pvh true || return
  check "it is one" in_domain pvh 'cat /sys/hypervisor/guest_type; [ $(cat /sys/hypervisor/guest_type) = PVH ]'
  check "and finds every byte right" in_domain pvh "disk_load verify /dev/xvda 3"
  check "also when the daemon is killed meanwhile" eval 'start pvh "disk_load verify /dev/xvda 6" && stop_daemon -9 && serve --grants map && finish pvh'
  check "the device keeps its mode" test "$(device pvh 51712 persistent)" = false
  check "a disk attached now is mapped" xl block-attach pvh "$(disk xvdb disk3)"
  check "and right as well" in_domain pvh "$(block_device xvdb); disk_load verify /dev/xvdb 3"
  check "by grants that stay" eval '[ $(device pvh 51728 persistent) = true ] && [ $(device pvh 51728 grants-mapped) -gt 0 ]'
  check "a larger size" parallax resize disk3 96M
  check "reaches the guest" until_true 20 in_domain pvh '[ $(cat /sys/block/xvdb/size) = 196608 ]'
  xl destroy pvh
  check "a destroyed guest's disks are free" until_true 20 eval 'dd if=/dev/zero of=/tmp/block bs=4096 count=1 && parallax write disk2 0 </tmp/block && parallax write disk3 0 </tmp/block'
}

# ---- Another domain, in which everything a frontend can do is done wrong, beside a guest that verifies its disk ----
part_hostile() {
  config evil 112 evil ""
  cp /boot/guest.cpio /boot/evil.cpio
  check "a hostile guest" create evil
  evil_id=$(rig id evil)
  in_domain g1 "(disk_load verify /dev/xvda 900 >/run/beside 2>&1) & sleep 1" >/dev/null
  for mode in copy map; do
    check "the daemon serves by $mode" eval 'stop_daemon && serve --grants $mode'
    daemon=$(pidof parallaxd)
    start evil "ring_hostile --rounds 5 2>&1"
    xl block-attach evil "$(disk xvda disk7)"
    check "5 rounds of a hostile frontend against a backend that serves by $mode" finish evil
    check "it is still the same process" test "$(pidof parallaxd)" = "$daemon"
    xl block-detach evil xvda >/tmp/detach.out 2>&1 || xl block-detach --force evil xvda >>/tmp/detach.out 2>&1; sed 's/^/# xl: /' /tmp/detach.out
    check "the hostile frontend's device is gone" until_true 20 no_node "$backend/$evil_id/51712"
  done
  check "the guest beside it saw no wrong byte" eval 'in_domain g1 "kill \$(pidof disk_load); while pidof disk_load; do usleep 100000; done; cat /run/beside; grep -q \"no wrong byte\" /run/beside"'
  xl destroy evil
  check "nothing of it is left" until_true 20 eval 'no_zombie && no_node "$backend/$evil_id"'
}

# ---- A block that rotted on the store's disk: an error to its guest, a line in the log, and nothing for anybody else ----
part_damage() {
  dd if=/dev/urandom of=/tmp/rot bs=4096 count=1 2>/dev/null
  parallax write disk4 8388608 </tmp/rot >/dev/null
  stop_daemon; sync
  at=$(find_block /store/blocks /tmp/rot 0) && printf 'rot' | dd of=/store/blocks bs=1 seek=$((at * 4096 + 100)) conv=notrunc 2>/dev/null
  check "a block is damaged in the store" test -n "$at"
  check "the daemon starts" serve
  check "the image is attached" xl block-attach g1 "$(disk xvdb disk4)"
  check "its damaged block is an error and never wrong bytes" in_domain g1 "$(block_device xvdb); ! dd if=/dev/xvdb of=/dev/null bs=4096 skip=2048 count=1 iflag=direct && dd if=/dev/xvdb of=/dev/null bs=4096 count=1 iflag=direct"
  check "the log says so" grep -iq 'checksum\|damaged' /run/parallaxd.log
  check "the other disk is not touched" in_domain g1 "disk_load verify /dev/xvda 2"
  check "it is detached" xl block-detach g1 xvdb
  check "a check finds it" eval 'parallax check; [ $? = 2 ]'
}

part_end() {
  xl destroy g1
  check "no node is left behind" until_true 20 nothing_left
  check "no channel of a guest is left" until_true 10 eval '! lsevtchn 0 | grep "Interdomain (Connected) - Remote Domain [1-9]"'
  check "no domain is left that somebody has mapped" until_true 10 no_zombie
  check "the daemon ends" stop_daemon
}

parts=$(cat /parts)
for part in ${parts:-refusals read_only features pvh hostile damage end}; do
  note "part $part"
  "part_$part"
done
[ $failures = 0 ] || sed 's/^/# /' /run/parallaxd.log
exit $failures
