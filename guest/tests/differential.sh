# about: zram's attributes as uzram has them beside a kernel's zram that has everything
# boot: shared
# modules: loop zram
# timeout: 180

mount -t debugfs debugfs /sys/kernel/debug
truncate -s 16M kernels ours
kernels=$(losetup --find --show kernels)
ours=$(losetup --find --show ours)
check zram-differential "$kernels" "$ours" "$(parameter seed 1)" "$(parameter steps 600)"
umount /sys/kernel/debug
losetup -d "$kernels" "$ours"
