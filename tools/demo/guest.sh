#!/bin/bash
# guest.sh DIR SOURCES: one guest machine of the demo: a disk that it reaches by its ring alone, and a writer of files.
#
# DIR (made by the caller) holds all that is this guest's: out (what it prints), log (what it wrote), stop (made by the caller:
# end in good order). SOURCES lists files to write, "SHA256  PATH" a line, PATHs relative to $DEMO_TREE.
# The disk is guest_fuse's one file (that process is the domain: it knows its ring and nothing else), the file system is the
# kernel's ext4 on a loop device over it, in a mount namespace of this guest's own.
# The log has a line for each file before it is begun and a line after it and its folder are synced:
#   begun MICROSECONDS NAME -            synced MICROSECONDS NAME SHA256
set -u
export LC_ALL=C
dir=$1 sources=$2
parent=$PPID
if [ -z "${DEMO_NAMESPACE:-}" ]; then
  # Where / is not a mount point (a chroot) its propagation cannot be changed, and need not be.
  propagation=private
  unshare --mount true 2>/dev/null || propagation=unchanged
  DEMO_NAMESPACE=$propagation exec unshare --mount --propagation $propagation "$0" "$@"
fi

door=$dir/door root=$dir/root fuse='' loop=''
mkdir -p "$door" "$root"
die() { echo "guest: $*" >&2; exit 1; }
# In good order nothing is left for this. Otherwise the door goes first: a file system over a dead door gives up at once,
# over a door that waits for its backend it would wait too.
# shellcheck disable=SC2317 # called by the trap
cleanup() {
  [ -n "$fuse" ] && kill -9 "$fuse" 2>/dev/null && wait "$fuse" 2>/dev/null
  umount -l "$root" 2>/dev/null
  [ -n "$loop" ] && losetup -d "$loop" 2>/dev/null
  umount -l "$door" 2>/dev/null
}
trap cleanup EXIT
trap 'exit 1' TERM INT HUP

"$O/tests/programs/guest_fuse" --vdev xvda "$door" &
fuse=$!
echo $fuse >"$dir/pid"
for ((i = 0; i < 600; i++)); do
  [ -e "$door/disk" ] && break
  kill -0 $fuse 2>/dev/null || die "the domain ended before it had its disk"
  sleep 0.1
done
[ -e "$door/disk" ] || die "no disk after 60 s"

for ((i = 0; i < 10; i++)); do
  # Two guests may be offered the same free loop device; the second one asks again.
  loop=$(losetup --find --show --direct-io=on "$door/disk" 2>/dev/null || losetup --find --show "$door/disk") && break
  sleep 0.1
done
[ -n "$loop" ] || die "no loop device"
mount -t ext4 "$loop" "$root" || die "the disk does not mount"
losetup -d "$loop" # takes effect when the file system is unmounted, whatever ends it
mkdir -p "$root/written" || die "cannot write"
sync "$root/written" "$root" || die "cannot sync"
echo "guest: mounted $(losetup -n -O DIO "$loop" | grep -q 1 && echo with direct I/O)"

number=0
write_batch() { # "SHA256  PATH" …
  local -a names=() sums=() files=()
  local line
  for line; do
    local name=$number-${line##*/}
    number=$((number + 1))
    echo "begun ${EPOCHREALTIME/./} $name -" >>"$dir/log"
    cp "$DEMO_TREE/${line#*  }" "$root/written/$name" || die "cannot write $name"
    names+=("$name") sums+=("${line%%  *}") files+=("$root/written/$name")
  done
  sync "${files[@]}" "$root/written" || die "cannot sync"
  local now=${EPOCHREALTIME/./} i
  for i in "${!names[@]}"; do echo "synced $now ${names[i]} ${sums[i]}"; done >>"$dir/log"
}

mapfile -t lines <"$sources"
at=0
while [ ! -e "$dir/stop" ] && [ $number -lt 20000 ] && [ -d /proc/$parent ]; do
  write_batch "${lines[@]:at:4}"
  at=$(((at + 4) % (${#lines[@]} - 4)))
done

umount "$root" || die "cannot unmount"
for ((i = 0; i < 50; i++)); do losetup "$loop" 2>/dev/null | grep -q "$door/disk" || break; sleep 0.1; done
loop=''
kill -TERM $fuse; wait $fuse; status=$?
fuse=''
exit $status
