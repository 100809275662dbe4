# about: a disk by vhost-user whose server is killed and upgraded in turns: nothing is lost, nothing fails
# disk: vhost-user
# modules: virtio_blk ext4
# timeout: 120

disk=/dev/vda
equal "$(blockdev --getsize64 $disk)" $((256 << 20)) "the disk's size"
equal "$(cat /sys/block/vda/serial)" zram0 "the disk's serial number"
equal "$(ls /sys/block/vda/mq | wc -l)" 2 "the number of queues"

say "a file system"
check mkfs.ext4 -q $disk
check mount $disk /mnt
cp -r /usr/bin /mnt/bin
check umount /mnt
check e2fsck -fn $disk
check mount $disk /mnt
check diff -r /usr/bin /mnt/bin
rm -r /mnt/bin
check fstrim -v /mnt
check umount /mnt

say "verified load"
fio --name=load --filename=$disk --direct=1 --ioengine=libaio --iodepth=8 --numjobs=2 --rw=randrw --bsrange=4k-256k \
    --size=40M --offset_increment=64M --verify=crc32c --verify_fatal=1 --verify_backlog=32 \
    --buffer_compress_percentage=50 --time_based --runtime=25 --group_reporting --output=fio.out ||
    { cat fio.out; fail fio; }
grep -E 'err=|IOPS' fio.out

say "zeros"
check blkdiscard $disk
cmp -n $((64 << 20)) $disk /dev/zero
check blkdiscard -z -o 4096 -l 8192 $disk
