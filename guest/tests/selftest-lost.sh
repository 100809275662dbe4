# about: the bench itself: the guest goes away in the test
# ci: no
# fails: lost
# timeout: 20

poweroff -f
sleep 1000
