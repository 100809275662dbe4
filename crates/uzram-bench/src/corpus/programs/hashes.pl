$| = 1; srand(5); my %h;
sub used { open my $f, '<', '/proc/self/statm'; return (split ' ', <$f>)[1] * 4096 }
my $i = 0;
while ($i % 1000 || used() < LIMIT) {
    $i++; my $k = sprintf('/srv/data/%x/%d.log', int rand 65536, $i);
    $h{$k} = { size => int rand 1e6, mode => 33188, lines => [map { 'word' . int rand 500 } 1..8] };
}
print qq(ready\n); my @rest = <STDIN>;
