# about: the guest boots, uzram runs, modules load
# boot: shared
# timeout: 60
# modules: ublk_drv nbd zram loop null_blk btrfs xfs

check uname -r
check uzram --version
uzram algorithms | tee algorithms
grep -q '^zstd ' algorithms
for device in /dev/ublk-control /dev/nbd0 /dev/zram0 /dev/loop-control /dev/nullb0; do
    [ -e "$device" ] || fail "no $device"
done
grep -qw fuse /proc/filesystems
check mount -t tmpfs tmpfs /mnt
equal "$(findmnt -no FSTYPE /mnt)" tmpfs "what is mounted at /mnt"
umount /mnt
save algorithms
result modules "$(lsmod | wc -l)"
