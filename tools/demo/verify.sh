#!/bin/bash
# verify.sh IMAGE MOUNTPOINT LOG BEFORE AFTER SOURCES: judges an exported copy of a guest's disk.
#
# The file system must be whole once its journal is replayed; every file of LOG (see guest.sh) that was synced before the
# snapshot was asked for (BEFORE, microseconds) must be there with its content, none that was begun after it was done (AFTER)
# may be, and the template's own files must be as they were. Prints one line, or what is wrong and ends with status 1.
set -u
export LC_ALL=C
image=$1 mountpoint=$2 log=$3 before=$4 after=$5 sources=$6
die() { echo "$(basename "$image"): $*" >&2; exit 1; }

# The replay by itself first: with it e2fsck brings the superblock's totals of free blocks and inodes up to date, which ext4
# leaves stale while it is mounted on any disk. After it -fy, which ends with 1 if it mends anything, must find nothing.
text=$(e2fsck -p "$image" 2>&1) || die "the journal's replay ended with $?: $text"
text=$(e2fsck -fy "$image" 2>&1) || die "e2fsck -fy ended with $?: $text"
text=$(e2fsck -fn "$image" 2>&1) || die "e2fsck -fn ended with $?: $text"

mkdir -p "$mountpoint"
mount -t ext4 -o loop,ro "$image" "$mountpoint" || die "does not mount"
trap 'cd /; umount "$mountpoint"' EXIT
cd "$mountpoint/written" 2>/dev/null || die "the guest's folder is missing"

synced=$(awk -v t="$before" '$1 == "synced" && $2 < t' "$log" | wc -l)
begun=$(awk -v t="$after" '$1 == "begun" && $2 > t' "$log" | wc -l)
[ "$synced" -gt 0 ] || die "no file was synced before the snapshot: nothing is proven"
[ "$begun" -gt 0 ] || die "no file was begun after the snapshot: nothing is proven"
awk -v t="$before" '$1 == "synced" && $2 < t { print $4 "  " $3 }' "$log" | sha256sum --check --quiet - ||
  die "a file that was synced before the snapshot is missing or wrong"
while read -r name; do
  [ ! -e "$name" ] || die "$name is in the snapshot, but was begun after it"
done < <(awk -v t="$after" '$1 == "begun" && $2 > t { print $3 }' "$log")
cd "$mountpoint" || die "is gone"
sha256sum --check --quiet "$sources" || die "a file of the template has changed"
cd /
echo "$(basename "$image" .img): e2fsck clean; $synced files synced before it are whole, none of $begun begun after it is there"
