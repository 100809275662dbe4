# about: a file system on the fuse-loop frontend survives remount and check
# boot: shared
# timeout: 120
# modules: loop fuse

disk=$(uzram create --size 256M --frontend fuse-loop)
say "disk $disk"
# This kernel has no FUSE over io_uring.
equal "$(uzram stat "$disk" | sed -n 's/^transport *//p')" /dev/fuse "the transport"
expect_exit 5 uzram create --size 16M --frontend fuse-loop --fuse-uring on
check mkfs.ext4 -q "$disk"
check mount "$disk" /mnt
noise 16 >/mnt/random
cp -r /usr/bin /mnt/bin
check umount /mnt
check e2fsck -fn "$disk"
check mount "$disk" /mnt
noise 16 | check cmp - /mnt/random
check diff -r /usr/bin /mnt/bin
expect_exit 3 uzram remove "$disk"
check umount /mnt
check uzram list
check uzram remove "$disk"
equal "$(uzram list | wc -l)" 1 "lines of the list of no devices"
