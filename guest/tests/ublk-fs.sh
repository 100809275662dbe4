# about: ext4, xfs and btrfs on ublk survive remount and check; trim gives memory back; caches are announced
# ci: slow
# memory: 1536M
# modules: ublk_drv ext4 xfs btrfs
# timeout: 240

stored() { uzram list --bytes --noheadings --raw --output data; }
memory() { uzram list --bytes --noheadings --raw --output total; }
check_fs() {
    case $1 in
        ext4) check e2fsck -fn "$disk" ;;
        xfs) check xfs_repair -n "$disk" ;;
        btrfs) check btrfs check --readonly "$disk" ;;
    esac
}
for fs in ext4 xfs btrfs; do
    options=()
    if [ $fs = xfs ]; then options=(--block-size 512 --write-cache); fi
    disk=$(uzram create --size 384M --frontend ublk "${options[@]}")
    queue=/sys/block/${disk#/dev/}/queue
    if [ $fs = xfs ]; then
        equal "$(cat $queue/logical_block_size)" 512 "logical block size"
        equal "$(cat $queue/physical_block_size)" 4096 "physical block size"
        equal "$(cat $queue/write_cache) $(cat $queue/fua)" "write back 1" "cache and fua"
    else
        equal "$(cat $queue/write_cache) $(cat $queue/fua)" "write through 0" "cache and fua"
    fi
    check "mkfs.$fs" -q "$disk"
    check mount "$disk" /mnt
    empty=$(stored)
    cp -r /usr/bin /mnt/bin
    noise 24 | check dd of=/mnt/random bs=1M iflag=fullblock conv=fsync status=none
    check fio --name=fsync --directory=/mnt --rw=randwrite --bs=4k --size=2M --fsync=8 --verify=crc32c --output=fio.out
    check umount /mnt
    check_fs $fs
    check mount "$disk" /mnt
    noise 24 | check cmp - /mnt/random
    check diff -r /usr/bin /mnt/bin
    full=$(stored)
    before=$(memory)
    rm -r /mnt/bin /mnt/random
    sync -f /mnt
    check fstrim -v /mnt
    sync -f /mnt
    say "stored: $empty empty, $full full, $(stored) trimmed"
    [ "$(stored)" -lt $((empty + (full - empty) / 4)) ] || fail "trim gave too little back"
    say "memory: $before full, $(memory) trimmed"
    [ "$(memory)" -lt $((before - 24 * 1048576)) ] || fail "the noise's memory did not come back"
    check umount /mnt
    check_fs $fs
    check uzram remove "$disk"
done
nothing_left
