eval "$(cat)"
read -r nonce < /proc/sys/kernel/random/uuid
printf '%s %s\n' "$ATTUNE_EXEC_ID" "$nonce" >> "$ledger"
[ "$seconds" = 0 ] || sleep "$seconds"
printf '%s\n' "$nonce"
