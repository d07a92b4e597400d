use strict;
use warnings;
use JSON::PP;

# Parameters come as one JSON document on stdin.
my $parameters = decode_json(do { local $/; <STDIN> });
print encode_json({ greeting => "Hello, $parameters->{name}!" }), "\n";
