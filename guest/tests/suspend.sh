# about: servers that are frozen, as before a machine sleeps, while disks and swap are in use: requests wait, and all goes on
# ci: slow
# modules: ublk_drv loop ext4 fuse
# timeout: 300

# This kernel has no pm_test (CONFIG_PM_DEBUG), and the clock of this virtual machine does not wake it from suspend-to-idle. So
# what a sleep begins with is done to the servers alone, by the freezer of a control group.
group=/sys/fs/cgroup/servers
mkdir $group
freeze() {
    echo "$1" >$group/cgroup.freeze
    retry 10 grep -q "^frozen $1" $group/cgroup.events
}

ublk=$(uzram create --size 128M --frontend ublk)
loop=$(uzram create --size 128M --frontend fuse-loop)
swap=$(uzram create --size 128M --swap --frontend ublk --algorithm lz4)
for kind in ublk loop; do
    mkdir /mnt/$kind
    check mkfs.ext4 -q "${!kind}"
    check mount "${!kind}" /mnt/$kind
    cp -r /usr/sbin /mnt/$kind/copy
done
for pid in $(processes serve); do echo "$pid" >$group/cgroup.procs; done

say "requests wait for a frozen server, and are carried out"
freeze 1
for kind in ublk loop; do
    dd if="${!kind}" of=/dev/null bs=4k count=1 iflag=direct status=none &
    eval "reader_$kind=$!"
done
sleep 3
kill -0 $reader_ublk $reader_loop || fail "a read does not wait for a frozen server"
freeze 0
wait $reader_ublk || fail "a read failed on ublk"
wait $reader_loop || fail "a read failed on fuse-loop"

say "under load"
for kind in ublk loop; do
    fio --name=load --directory=/mnt/$kind --direct=1 --ioengine=libaio --iodepth=8 --rw=randrw --bsrange=4k-64k \
        --size=32M --verify=crc32c --verify_fatal=1 --verify_backlog=32 --buffer_compress_percentage=50 --time_based \
        --runtime=30 --output=$kind.out &
    eval "fio_$kind=$!"
done
for _ in 1 2 3 4; do
    sleep 2
    freeze 1
    sleep 3
    freeze 0
done
wait $fio_ublk || { cat ublk.out; fail "fio on ublk"; }
wait $fio_loop || { cat loop.out; fail "fio on fuse-loop"; }

say "with pages on the swap"
check memhog $(($(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo) * 105 / 100)) 1 &
hog=$!
for _ in 1 2 3; do
    sleep 3
    freeze 1
    sleep 2
    freeze 0
done
wait $hog || fail "memhog found other contents than it had written, or was killed"

check swapoff "$swap"
for kind in ublk loop; do
    check diff -r /usr/sbin /mnt/$kind/copy
    check umount /mnt/$kind
    check e2fsck -fn "${!kind}"
done
check uzram remove --all
nothing_left
