use strict;
use warnings;
use JSON::PP;

my $parameters = decode_json(do { local $/; <STDIN> });
my (%levels, %messages);

for my $line (split /\n/, $parameters->{text}) {
    next unless $line =~ /\b(DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL)\b:?\s*(.*)/;
    my ($level, $message) = ($1, $2);
    $message =~ s/\Q$parameters->{mask}\E/<masked>/g if $parameters->{mask};
    $message =~ s/\d+/N/g;
    $levels{$level}++;
    $messages{$message}++;
}

my @top = sort { $messages{$b} <=> $messages{$a} || $a cmp $b } keys %messages;
splice @top, $parameters->{top} if @top > $parameters->{top};

print JSON::PP->new->canonical->encode({
    levels => \%levels,
    top    => [map { { message => $_, count => $messages{$_} } } @top],
}), "\n";
