# mount_lib.sh - what the tests of `parallax mount` share beside lib.sh; sourced after it.
#   can_mount TEXT        ends the test file with a skip where file systems in user space cannot be mounted
#   can_loop TEXT         the same for loop devices
#   mount_store OPTION…   mounts the store on $at; unmount_store takes it away
#   restart_daemon SIGNAL ends the daemon and starts it again
at=$work/at
mkdir "$at"

can_mount() { # TEXT
  if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ] || ! unshare --mount true 2>/dev/null || ! grep -qw fuse /proc/filesystems; then
    echo "skip cli: $1 - file systems in user space cannot be mounted here"
    exit 0
  fi
}

can_loop() { # TEXT
  losetup --find >/dev/null 2>&1 || { echo "skip cli: $1 - there are no loop devices here"; exit 0; }
}

mount_store() {
  good mount "$@" "$at" || return
  mounts+=("$at")
}
unmount_store() { good umount "$at"; }

restart_daemon() { # SIGNAL
  local pid=$daemon
  kill "-$1" "$pid" && wait "$pid" 2>/dev/null
  daemon=''
  start_daemon || note_failure "the daemon does not come back: $(tail -3 "$work/daemon.log")"
}

# Waits until the door's process is gone, and its attachments with it.
await() { # TEXT COMMAND…
  local what=$1
  shift
  for _ in $(seq 300); do "$@" && return 0; sleep 0.1; done
  note_failure "$what"
}
door_pid() { pgrep -n -f -- "parallax-mount .*$at\$"; }  # the newest: who started it may not have ended yet
no_door() { ! door_pid >/dev/null; }
is_free() { "$O/parallax" info "$1" --json | jq -e '.holder==null and .readers==0' >/dev/null; }
