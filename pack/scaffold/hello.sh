# Parameters come as name='value' lines on stdin (parameter_format: dotenv).
eval "$(cat)"
printf '{"greeting": "Hello, %s!"}\n' "$name"
