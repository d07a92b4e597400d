require 'json'

# Parameters come as one JSON document on stdin.
parameters = JSON.parse($stdin.read)
puts JSON.generate(greeting: "Hello, #{parameters['name']}!")
