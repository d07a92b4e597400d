set -euo pipefail
webhook_token=
eval "$(cat)"

authenticated=false
[ -z "$webhook_token" ] || authenticated=true

# One JSON object per file system and line (output_format: jsonl).
df -P -k -x tmpfs -x devtmpfs 2>/dev/null | tail -n +2 | while read -r device _ _ _ used mount; do
  percent=${used%\%}
  [ "$percent" -ge "$threshold" ] 2>/dev/null || continue
  printf '{"device": "%s", "mount": "%s", "percent": %d, "authenticated": %s}\n' "$device" "$mount" "$percent" "$authenticated"
done
