eval "$(cat)"
exec sleep "$seconds"
