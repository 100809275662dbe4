# about: the bench itself: the kernel panics
# ci: no
# fails: panic
# timeout: 20

echo 1 >/proc/sys/kernel/sysrq
echo c >/proc/sysrq-trigger
