# about: the bench itself: the test takes longer than it may
# ci: no
# fails: timeout
# timeout: 3

save /proc/version
sleep 1000
