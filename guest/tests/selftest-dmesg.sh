# about: the bench itself: the kernel reports an I/O error
# ci: no
# fails: kernel
# timeout: 20

echo "<3>Buffer I/O error on dev nothing" >/dev/kmsg
