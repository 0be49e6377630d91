#!/bin/sh
# debian.sh: guests that boot from their clones as their own disk: GRUB reads kernel and initramfs from it, and Debian comes up to
# systemd; GRUB for PVH guests has the 32-bit layout. Meanwhile: many disks, within and beyond the xenstore's quota, and xl devd.
# /parts names the parts to do (all).
. /lib.sh
load virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk xen-blkback
until_true 5 test -b /dev/vdc || { bad "the store's disk, Debian's and the small root's - no /dev/vdc"; exit 1; }
console() { grep -a "$2" $consoles/guest-$1.log; }

check "the storage domain starts" start_storage "$(hotplug_disk xvda /dev/vda), $(hotplug_disk xvdb /dev/vdb ro), $(hotplug_disk xvdc /dev/vdc ro)" || { cat $consoles/guest-storage.log; exit 1; }
check "a store is made on its disk" storage "mount -t ext4 /dev/xvda /store && parallax init --size 2G" || exit 1
check "a disk with Debian on it is imported as a template" storage "parallax import --template /dev/xvdb debian"
check "another with a small root of our own as well" storage "parallax import --template /dev/xvdc small"
check "and cloned" storage "parallax clone --count 3 debian root && parallax clone --count 101 small disk"
check "parallaxd serves on Xen" serve
config g1 112 guest disk=/dev/xvda "disk=['$(disk xvda disk0)']"
check "a guest boots the init of its clone" create g1
check "and has its root there" in_domain g1 'grep "^/dev/xvda / ext4" /proc/mounts && touch /here && sync'

# ---- GRUB, then Debian's own kernel, from one clone each ----
boot_by() { # NAME LOADER IMAGE LINE…
  local name=$1 loader=$2 image=$3; shift 3
  { printf 'name="%s"\nkernel="/boot/%s"\nmemory=320\n' "$name" "$loader"
    printf 'on_poweroff="destroy"\non_crash="destroy"\non_reboot="destroy"\n'
    printf '%s\n' "$@" "disk=['$(disk xvda "$image")']"; } >/tmp/$name.cfg
  booted_at=$(now)
  xl create -q /tmp/$name.cfg
}
part_grub() {
  check "a guest is started with GRUB on its clone" boot_by deb grub-x86_64-xen.bin root0
  deb_id=$(rig id deb)
}
part_grub_ends() {
  check "Debian comes up from its clone to systemd" until_true 420 console deb "rig: pid 1 is systemd, root is /dev/xvda, 0 units failed"
  note "$(console deb 'rig: pid' | tr -d '\r'); GRUB and Debian took $(awk "BEGIN { print $(now) - $booted_at }") s"
  check "and powers off" until_true 120 gone deb || tail -5 $consoles/guest-deb.log
  check "two kinds of frontend had the disk, one after the other" storage "[ \$(grep -c 'device connected: domid=$deb_id vdev=51712 image=root0' /run/parallaxd.log) = 2 ]"
  check "its disk is gone from the xenstore" until_true 20 no_node "$backend/$deb_id"
  check "the clone has what Debian wrote" eval 'xl block-attach g1 "$(disk xvdb root0)" && in_domain g1 "$(block_device xvdb); e2fsck -fp /dev/xvdb; mount -o ro /dev/xvdb /mnt && cat /mnt/booted && umount /mnt" && xl block-detach g1 xvdb'
  check "the other clone has not" eval 'xl block-attach g1 "$(disk xvdb root1)" && in_domain g1 "$(block_device xvdb); mount /dev/xvdb /mnt && [ -e /mnt/sbin/init -o -L /mnt/sbin/init ] && [ ! -e /mnt/booted ] && umount /mnt" && xl block-detach g1 xvdb'
}
# GRUB's frontend alone: of the kernel's in a PVH guest dom0.sh has one, and here the emulation would hold few as long as until then.
boot_pvh() {
  boot_by deb32 grub-i386-xen_pvh.bin root2 'type="pvh"' && deb32_id=$(rig id deb32) && until_true 120 eval 'gone deb32 || reads_kernel' && reads_kernel
}
reads_kernel() { [ "$(device deb32 51712 reads)" -gt 200 ]; }
part_pvh_grub() {
  again_if_emulation_fails deb32 boot_pvh
  check "a PVH guest's 32-bit GRUB reads from its clone" reads_kernel || sed 's/^/#   /' /tmp/again.out
  check "in the 32-bit layout" storage "grep 'device connected: domid=$deb32_id .*layout=x86_32' /run/parallaxd.log"
  xl destroy deb32
}

# ---- Many disks ----
# Nobody has a disk but those who had one before.
nobody_else() { ! xenstore-ls -f "$backend" | sed -n "s|^$backend/\([0-9]*\)/[0-9]*/params.*|\1|p" | grep -vx "$(rig id g1)\|$deb_id"; }
many() { # FIRST COUNT: a disk line for each
  awk -v first=$1 -v count=$2 'BEGIN { for (i = 0; i < count; i++) { n = i + 1; s = ""; while (n > 0) { n--; s = sprintf("%c", 97 + n % 26) s; n = int(n / 26) }
    printf "%s\047format=raw,vdev=xvd%s,access=rw,backendtype=phy,backend=storage,target=disk%d\047", i ? "," : "disk=[", s, first + i } print "]" }'
}
part_quota() {
  # The default quota would do as well, with so many disks that libxl takes minutes to see it.
  check "the quota is lowered" xenstore-control quota set nodes 250
  config many 256 guest "" "$(many 1 20)"
  if xl create -q /tmp/many.cfg >/tmp/many.out 2>&1; then bad "disks beyond the quota are refused - they were not"; xl destroy many; else ok "disks beyond the quota are refused"; fi
  grep -v '^$' /tmp/many.out | tail -3 | sed 's/^/# xl: /'
  check "nothing of them is left" until_true 30 nobody_else
  check "the daemon serves the others" eval 'xl block-attach g1 "$(disk xvdb disk99)" && in_domain g1 "$(block_device xvdb); disk_load verify /dev/xvdb 1" && xl block-detach g1 xvdb'
  check "the quotas are raised" eval 'xenstore-control quota set nodes 10000 && xenstore-control quota set watches 1000'
  config many 256 guest "" "$(many 1 100)"
  xl pause deb 2>/dev/null # libxl gives all of them ten seconds, the emulation included
  check "a guest has 100 disks" create many
  xl unpause deb 2>/dev/null
  check "and uses all of them" in_domain many 'n=0; for d in /sys/block/xvd*; do dd if=/dev/urandom of=/dev/${d##*/} bs=4096 count=1 conv=fsync 2>/dev/null && n=$((n + 1)); done; echo $n disks; [ $n = 100 ]'
  check "the daemon shows them" storage "[ \$(parallax --json status | jq '[.devices[] | select(.domid == $(rig id many) and .state == \"connected\")] | length') = 100 ]"
  xl destroy many
  check "nothing of them is left" until_true 60 nobody_else
}

# ---- With the toolstack's own daemon in the storage domain, which runs the script there and removes directories too ----
part_devd() {
  check "xl devd starts in the storage domain" storage "mkdir -p /var/log/xen && xl devd && until pidof xl; do usleep 100000; done"
  n=0
  while [ $n -lt 3 ]; do
    check "a disk is attached" xl block-attach g1 "$(disk xvdb disk1 rw script=block-parallax)"
    check "works" in_domain g1 "$(block_device xvdb); disk_load verify /dev/xvdb 1"
    check "and is detached" xl block-detach g1 xvdb
    check "without leaving a node" until_true 20 no_node "$backend/$(rig id g1)/51728"
    n=$((n + 1))
  done
  storage 'kill $(pidof xl)' >/dev/null
}

part_end() {
  xl destroy g1
  check "no node is left behind" until_true 20 nothing_left
  check "no channel of a guest is left" until_true 10 eval '! lsevtchn $(rig id storage) | grep "Interdomain (Connected) - Remote Domain [1-9]"'
  check "no domain is left that somebody has mapped" until_true 10 no_zombie
  check "the store is sound" storage "parallax check"
}

parts=$(cat /parts)
for part in ${parts:-grub quota devd grub_ends pvh_grub end}; do
  note "part $part"
  "part_$part"
done
[ $failures = 0 ] || show_log
exit $failures
