# report.sh - the table or the JSON document of what bench/run recorded. Sourced by bench/run.
# shellcheck shell=bash
# shellcheck disable=SC2154 # names of bench/run

ratio() { [ -n "$1" ] && [ -n "$2" ] && awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b }'; }
operations="snapshot-under-load-ms clone-1000-of-100G-ms clone-1000-of-1T-ms ls-1000-ms"
[ -z "${WORKLOADS:-}" ] || operations=''

if [ -n "$json" ]; then
  printf '{"seconds": %s, "rounds": %s, "image-bytes": %s' "$seconds" "$pairs" $((image_mib << 20))
  while read -r name _; do
    raw=$(median "$name" raw) ours=$(median "$name" ours) qcow2=$(median "$name" qcow2)
    printf ', "%s": {"raw": %s, "ours": %s, "ours-to-raw": %s' "$name" "${raw:-null}" "${ours:-null}" "$(ratio "$ours" "$raw")"
    [ -z "$qcow2" ] || printf ', "qcow2": %s, "qcow2-to-raw": %s' "$qcow2" "$(ratio "$qcow2" "$raw")"
    printf '}'
  done < <(workloads)
  for name in $operations; do printf ', "%s": %s' "$name" "$(median "$name" ours)"; done
  printf '}\n'
else
  printf '%-20s %12s %12s %9s %12s %10s\n' "I/O a second" "raw" "ours" "ours/raw" "qcow2" "qcow2/raw"
  while read -r name _; do
    raw=$(median "$name" raw) ours=$(median "$name" ours) qcow2=$(median "$name" qcow2)
    printf '%-20s %12.0f %12.0f %9s %12s %10s\n' "$name" "$raw" "$ours" "$(ratio "$ours" "$raw")" "${qcow2:--}" "$(ratio "$qcow2" "$raw")"
  done < <(workloads)
  [ -z "$operations" ] || printf '\n%-28s %12s\n' "operation" "median"
  for name in $operations; do printf '%-28s %9.1f ms\n' "${name%-ms}" "$(median "$name" ours)"; done
  printf '\nmedians of %d rounds of %s s, image of %d MiB; rings: one guest process, one ring\n' "$pairs" "$seconds" "$image_mib"
fi
