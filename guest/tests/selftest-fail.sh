# about: the bench itself: a command fails
# ci: no
# fails: exit
# timeout: 20

say "the next line is to fail"
false
say "not to be seen"
