# about: uzram create --frontend nbd-kernel: verified I/O through kill -9 and an upgrade, removal
# boot: shared
# modules: nbd
# timeout: 180
# allow-dmesg: nbd0

disk=$(uzram create --size 256M --frontend nbd-kernel)
equal "$disk" /dev/nbd0 "the node"
equal "$(blockdev --getsize64 "$disk")" $((256 << 20)) "size"
fio --name=verify --filename="$disk" --direct=1 --ioengine=libaio --rw=randrw --bsrange=4k-256k --iodepth=8 --size=100% \
    --io_size=96M --verify=crc32c --verify_backlog=64 --buffer_compress_percentage=50 --output=fio.txt &
fio=$!
sleep 2
server=$(uzram list --noheadings --output pid)
check kill -9 "$server"
retry 30 served_by_other zram0 pid "$server"
check uzram list --output-all
check uzram upgrade --all
wait $fio || { cat fio.txt; fail "fio"; }
check mkfs.ext4 -q "$disk"
check mount "$disk" /mnt
expect_exit 3 uzram remove zram0
cp -a /usr/bin /mnt/
umount /mnt
check e2fsck -fn "$disk"
expect_exit 3 uzram create --size 64M --frontend nbd-kernel --number 0
# Server and keeper at once: the contents are lost, and the next command clears the rest.
kill_together $(uzram list --noheadings --output pid) $(uzram list --noheadings --output keeper)
check uzram list
[ ! -e /sys/block/nbd0/pid ] || fail "nbd0 is still connected"
equal "$(ls /run/uzram)" "" "what is left in the run directory"
