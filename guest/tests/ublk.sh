# about: a ublk device: geometry, verified I/O, discard, removal
# boot: shared
# modules: ublk_drv
# timeout: 120

disk=$(uzram create --size 256M --frontend ublk)
equal "$disk" /dev/ublkb0 "the node"
check uzram list
queue=/sys/block/ublkb0/queue
# A server killed while the driver looks for partitions would leave a deadlock: it must not look.
equal "$(blockdev --rereadpt "$disk" 2>&1 || :)" "blockdev: ioctl error on BLKRRPART: Invalid argument" "partitions"
equal "$(blockdev --getsize64 "$disk")" $((256 << 20)) "size"
equal "$(cat $queue/logical_block_size)" 4096 "logical block size"
equal "$(cat $queue/rotational)" 0 "rotational"
equal "$(cat $queue/discard_granularity)" 4096 "discard granularity"
[ "$(cat $queue/discard_max_bytes)" -gt 0 ] || fail "no discard"
[ "$(cat $queue/write_zeroes_max_bytes)" -gt 0 ] || fail "no write zeroes"

say "fio verify"
for engine in libaio io_uring; do
    check fio --name=verify --filename="$disk" --direct=1 --ioengine=$engine --rw=randrw --bsrange=4k-1m --iodepth=8 \
        --numjobs=4 --offset_increment=25% --size=25% --io_size=32M --verify=crc32c --verify_backlog=64 --buffer_compress_percentage=50 --output=fio.$engine.txt || { cat fio.$engine.txt; fail fio; }
done
check uzram stat zram0
check blkdiscard "$disk"
equal "$(uzram list --bytes --noheadings --raw --output data)" 0 "data after discard"
check uzram remove zram0
[ ! -e "$disk" ] || fail "$disk is still there"
equal "$(ls /sys/class/ublk-char)" "" "ublk devices"
