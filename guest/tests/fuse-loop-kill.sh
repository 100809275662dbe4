# about: fuse-loop after kill -9: idle it is served again at the same place, mounted the data wait behind a new node
# boot: shared
# modules: loop fuse ext4
# timeout: 120
# allow-dmesg: loop[0-9]

# A loop device's file cannot be changed, so this is how far the kernel lets us: the old node fails, nothing is lost.
disk=$(uzram create --size 128M --frontend fuse-loop)
check mkfs.ext4 -q "$disk"
check mount "$disk" /mnt
cp -r /usr/sbin /mnt/sbin
check umount /mnt

say "idle"
for _ in 1 2 3; do
    kill_server zram0
    disk=$(record zram0 path)
    check e2fsck -fn "$disk"
done
equal "$(losetup -n -O NAME | wc -l)" 1 "loop devices"

say "mounted: I/O errors there, and the data behind a new node"
check mount "$disk" /mnt
cp /usr/bin/fio /mnt/
sync -f /mnt
old=$disk
kill_server zram0
disk=$(record zram0 path)
say "old $old, new $disk"
if [ "$disk" = "$old" ]; then fail "the mounted node was taken away"; fi
if dd if="$old" of=/dev/null bs=4k count=1 iflag=direct 2>said; then fail "the old node works"; fi
cat said
check umount /mnt
check e2fsck -fp "$disk" || [ $? = 1 ]
check mount "$disk" /mnt
check diff -r /usr/sbin /mnt/sbin
check cmp /usr/bin/fio /mnt/fio
check umount /mnt
check uzram remove zram0
nothing_left
equal "$(losetup -n -O NAME | wc -l)" 0 "loop devices left"
