#!/bin/bash
# template.sh TREE IMAGE: makes TREE, a copy of this machine's own root files, and IMAGE, an ext4 disk of 2 GiB with it.
#
# Which files: regular files (single ones over 64 MiB left out), links and directories below the folders named here, in the
# order of their names, each folder up to its share and all together up to 400 MiB, so that the same machine always gives
# the same tree. Nothing is made up: it fails if it does not find 300 MiB of real files. Needs e2fsprogs (mke2fs -d).
set -eu -o pipefail
export LC_ALL=C
tree=$1 image=$2
shares="/etc=20 /usr/sbin=25 /usr/bin=100 /usr/lib=220 /usr/include=30 /usr/share=100 /usr/libexec=60" # MiB
at_most_mib=400 at_least_mib=300

mkdir -p "$tree"
for share in $shares; do
  folder=${share%=*}
  [ -d "$folder" ] || continue
  # Secrets stay where they are: only what everybody may read goes into the tree.
  find "$folder" -xdev \( -type f -perm -o=r -o -type d -perm -o=rx -o -type l \) -printf "$share %s %y %p\n" | sort -k4
done | awk -v most=$((at_most_mib << 20)) '
  { if ($1 != share) { share = $1; used = full = 0; split(share, part, "=") }
    size = $3 == "f" ? $2 : 0
    if (full || size > 67108864) next
    if (used + size > part[2] * 1048576 || all + size > most) { full = 1; next }
    used += size; all += size
    sub(/^[^ ]* [^ ]* [^ ]* /, ""); print }' >"$tree.list"
tar -C / --no-recursion --files-from="$tree.list" --warning=no-file-changed -cf - 2>/dev/null | tar -C "$tree" -xpf -
rm "$tree.list"
for link in bin sbin lib lib64; do
  if [ -L /$link ]; then cp -P /$link "$tree/"; fi
done
mkdir -p "$tree"/{dev,home,mnt,proc,root,run,sys,tmp,var/log}

mib=$(find "$tree" -type f -printf '%s\n' | awk '{ sum += $1 } END { print int(sum / 1048576) }')
if [ "$mib" -lt $at_least_mib ]; then
  echo "template: only $mib MiB of readable files in /etc and /usr; $at_least_mib are needed" >&2
  exit 1
fi
rm -f "$image" && truncate -s 2G "$image"
mke2fs -q -t ext4 -L parallax-demo -E lazy_itable_init=0,lazy_journal_init=0 -d "$tree" "$image" 2>"$tree.err" || { cat "$tree.err" >&2; exit 1; }
rm "$tree.err"
# mke2fs makes plain directories and e2fsck gives the large ones an index, once: done here, so that a later e2fsck has
# nothing left to do but the journal.
e2fsck -fy "$image" >/dev/null 2>&1 || [ $? = 1 ]
echo "$mib MiB in $(find "$tree" -type f | wc -l) files"
