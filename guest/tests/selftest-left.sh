# about: the bench itself: a test passes and leaves something behind
# ci: no
# boot: shared
# fails: left
# timeout: 20

mount -t tmpfs tmpfs /mnt
