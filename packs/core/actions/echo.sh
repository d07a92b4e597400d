# The parameters are name='value' lines, which a shell reads as they are.
eval "$(cat)"
printf '%s\n' "$message"
