# about: a file system on the nbd frontend, attached by the kernel's client
# boot: shared
# timeout: 120
# modules: nbd ext4

check uzram create --size 256M --frontend nbd
socket=/run/uzram/zram0/nbd.sock
check nbd-client -unix "$socket" -N zram0 -b 4096 -timeout 30 /dev/nbd0
equal "$(blockdev --getsize64 /dev/nbd0)" $((256 << 20)) "the disk's size"
check mkfs.ext4 -q /dev/nbd0
check mount /dev/nbd0 /mnt
cp -r /usr/bin /mnt/bin
check umount /mnt
check e2fsck -fn /dev/nbd0
check mount /dev/nbd0 /mnt
check diff -r /usr/bin /mnt/bin
check umount /mnt
check nbd-client -d /dev/nbd0
check uzram remove zram0
