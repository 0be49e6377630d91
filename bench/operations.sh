# operations.sh - times of snapshots, clones and listings, each with the command's own start included. Sourced by bench/run.
# shellcheck shell=bash
# shellcheck disable=SC2154 # names of bench/run

progress "bench: snapshots under load"
: >"$work/client"
"$O/tests/programs/ring_client" bench --rw randwrite --bs 4096 --depth 32 --seconds 12 >"$work/client" 2>"$work/client.err" </dev/null &
load=$!
attach_client $load
sleep 1
for ((i = 0; i < 100; i++)); do
  start=$(now_us)
  px -q snap create "bench@load$i" >/dev/null || die "snapshot failed"
  record snapshot-under-load-ms ours "$(awk -v us=$(($(now_us) - start)) 'BEGIN { print us / 1000 }')"
done
wait $load || die "ring_client failed under snapshots: $(tail -n 2 "$work/client.err")"

for template_size in 100G 1T; do
  px -q create "template$template_size" $template_size >/dev/null || die "no image"
  px -q template "template$template_size" >/dev/null || die "no template"
  for ((i = 0; i < pairs; i++)); do
    start=$(now_us)
    px -q clone --count 1000 "template$template_size" "c$template_size-$i-" >/dev/null || die "clone failed"
    record "clone-1000-of-$template_size-ms" ours "$(awk -v us=$(($(now_us) - start)) 'BEGIN { print us / 1000 }')"
    start=$(now_us)
    px ls "c$template_size-$i-*" >/dev/null || die "ls failed"
    record ls-1000-ms ours "$(awk -v us=$(($(now_us) - start)) 'BEGIN { print us / 1000 }')"
  done
done
