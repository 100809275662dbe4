# about: the bench itself: a task is blocked for long in the kernel
# ci: no
# fails: kernel
# timeout: 60
# modules: loop

# The guest's 30 s, sooner.
echo 3 >/proc/sys/kernel/hung_task_timeout_secs
truncate -s 64M disk
mkfs.ext4 -q disk
losetup /dev/loop0 disk
mount /dev/loop0 /mnt
fsfreeze -f /mnt
touch /mnt/blocked &
blocked() { dmesg | grep -q 'blocked for more than'; }
retry 30 blocked
fsfreeze -u /mnt
wait $!
