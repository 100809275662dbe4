# about: a guest whose root file system is on a disk by vhost-user runs from it while the disk's server is killed and upgraded
# ci: slow
# disk: vhost-user
# modules: virtio_blk ext4
# timeout: 180

disk=/dev/vda
say "a system on the disk"
check mkfs.ext4 -q $disk
check mount $disk /mnt
# What the boot's archive has, without kernel modules and without what is tested here.
mkdir -p /mnt/usr /mnt/etc /mnt/old
for dir in bin sbin lib lib64; do cp -a /usr/$dir /mnt/usr/ 2>/dev/null || :; rm -rf /mnt/usr/lib/modules; done
rm -f /mnt/usr/bin/uzram* /mnt/usr/bin/memhog /mnt/usr/bin/nbd-kernel /mnt/usr/bin/zram-differential
for link in bin sbin lib lib64; do if [ -L /$link ]; then cp -a /$link /mnt/; fi; done
cp -a /etc/. /mnt/etc/
mkdir -p /mnt/{dev,proc,sys,tmp,run,root}
(cd /mnt && find usr -type f -exec sha256sum {} + >root/sums)
result files "$(wc -l </mnt/root/sums)"
[ "$(wc -l </mnt/root/sums)" -gt 30 ] || fail "too few files to run from"
sync

cat >/mnt/root/live <<'END'
set -Eeuo pipefail
cd /root
# All of this, the programs among it, is on the disk.
[ "$(stat -c %d /bin/bash)" = "$((0x$(stat -c %t /dev/vda) * 256 + 0x$(stat -c %T /dev/vda)))" ]
fio --name=root --directory=/tmp --direct=1 --ioengine=libaio --iodepth=8 --rw=randrw --bsrange=4k-64k --size=32M \
    --verify=crc32c --verify_fatal=1 --verify_backlog=32 --buffer_compress_percentage=50 --time_based --runtime=30 \
    --output=fio.out &
fio=$!
runs=0
while kill -0 $fio 2>/dev/null; do
    # Programs are read from the disk again each time.
    echo 3 >/proc/sys/vm/drop_caches
    (cd / && sha256sum --quiet -c root/sums)
    cp -r /usr/sbin /tmp/copy$runs
    sync -f /tmp
    diff -r /usr/sbin /tmp/copy$runs
    rm -r /tmp/copy$runs
    runs=$((runs + 1))
done
wait $fio || { cat fio.out; exit 1; }
echo "$runs times all that is there was read"
[ $runs -gt 1 ]
END
say "it becomes the root, and runs"
# As an initramfs does it, which cannot be pivoted away from.
check unshare -m bash -euc '
    for dir in dev proc sys; do mount --rbind /$dir /mnt/$dir; done
    cd /mnt
    mount --move . /
    exec chroot . /bin/bash /root/live
'
check umount /mnt
check e2fsck -fn $disk
check mount $disk /mnt
(cd /mnt && check sha256sum --quiet -c root/sums)
check umount /mnt
