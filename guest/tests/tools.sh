# about: the guest's own tools: every file system, swap, zram, fio's JSON
# ci: slow
# memory: 1G
# modules: loop zram

for fs in ext4 xfs btrfs; do
    truncate -s 512M disk
    check "mkfs.$fs" -q disk
    check mount -o loop disk /mnt
    cp -r /usr/sbin /mnt
    check fstrim -v /mnt
    check umount /mnt
    rm disk
done
disk=$(zramctl -f -s 256M -a zstd)
check mkswap "$disk"
check swapon "$disk"
check swapoff "$disk"
check blkdiscard "$disk"
lsblk
fio --name=x --filename="$disk" --rw=randrw --bs=4k --ioengine=libaio --iodepth=16 --direct=1 \
    --time_based --runtime=3 --output-format=json --output=fio.json
save fio.json
check fio --name=y --filename="$disk" --rw=write --bs=128k --ioengine=io_uring --direct=1 --size=32M --verify=crc32c \
    --output-format=terse
