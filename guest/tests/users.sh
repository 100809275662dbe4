# about: who uses a device: partitions, swap by another node, device mapper, loop, md, bcache; none is left behind
# boot: shared
# modules: ublk_drv nbd loop fuse dm_mod ext4 md_mod raid1 bcache
# timeout: 300
# allow-dmesg: loop[0-9]|nbd0|md/raid1

# A partition of 64 MiB on a disk with sectors of 4096 bytes.
partition() {
    {
        head -c 446 /dev/zero
        printf '\0\0\0\0\203\0\0\0\0\1\0\0\0\100\0\0'
        head -c 48 /dev/zero
        printf '\125\252'
    } | dd of="$1" bs=512 conv=notrunc,fsync status=none
    check blockdev --rereadpt "$1"
    retry 10 test -b "$1p1"
}

# The device stays, and the message has these words.
used() {
    local command words=$1
    for command in "remove zram0" "remove --force zram0" "reset zram0"; do
        # shellcheck disable=SC2086
        expect_exit 3 uzram $command 2>said
        cat said
        grep -qF "$words" said || fail "no '$words' from uzram $command"
    done
}

for frontend in ublk nbd-kernel fuse-loop; do
    say "$frontend"
    disk=$(uzram create --size 128M --frontend $frontend --partscan)
    partition "$disk"
    check mkfs.ext4 -q "${disk}p1"
    check mount "${disk}p1" /mnt
    used "below ${disk}p1, which is mounted at /mnt"
    equal "$(uzram list --noheadings --output mountpoint)" /mnt "the mount point of a partition"
    check umount /mnt
    expect_exit 2 uzram set zram0 backing="${disk}p1"

    say "$frontend: swap by another node"
    mknod other b $((0x$(stat -c %t "$disk"))) $((0x$(stat -c %T "$disk")))
    check mkswap -q -f other
    check swapon other
    used "swapped on"
    equal "$(uzram list --noheadings --output mountpoint)" "[SWAP]" "a swap area"
    # A name that is gone, or another mount namespace's.
    rm other
    used "swapped on by a node that cannot be seen from here"
    equal "$(uzram list --noheadings --output mountpoint)" "[SWAP]" "a swap area without a node"
    check swapoff "$disk"

    say "$frontend: device mapper, a file system on it, a loop device on that"
    check blockdev --rereadpt "$disk"
    echo "0 65536 linear $disk 0" | check dmsetup create over
    used "held by /dev/dm-0"
    check mkfs.ext4 -q /dev/dm-0
    check mount /dev/dm-0 /mnt
    used "below /dev/dm-0, which is mounted at /mnt"
    truncate -s 8M /mnt/file
    top=$(losetup -f --show /mnt/file)
    expect_exit 2 uzram set zram0 backing="$top" 2>said
    grep -qF "($top, on /mnt/file, on /dev/dm-0, on $disk)" said || { cat said; fail "another way"; }
    check losetup -d "$top"
    check umount /mnt
    check dmsetup remove over

    say "$frontend: a loop device"
    top=$(losetup -f --show "$disk")
    used "below $top, whose file is $disk"
    check losetup -d "$top"

    partition "$disk"
    if [ $frontend = fuse-loop ]; then
        kill_server zram0
        disk=$(record zram0 path)
        retry 10 test -b "${disk}p1"
    fi
    check uzram remove zram0
    retry 10 test ! -e "${disk}p1"
done

# A holder, what is mounted on it, and the way down from a file there: on_top NODE
on_top() {
    local top
    used "held by $1"
    check mkfs.ext4 -q "$1"
    check mount "$1" /mnt
    used "below $1, which is mounted at /mnt"
    truncate -s 8M /mnt/file
    expect_exit 2 uzram set zram0 backing=/mnt/file 2>said
    grep -qF "(/mnt/file, on $1, on $disk)" said || { cat said; fail "another way"; }
    check umount /mnt
}

say "md"
disk=$(uzram create --size 128M --frontend ublk)
export MDADM_NO_UDEV=1
check mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 "$disk" missing
retry 10 test -b /dev/md0
on_top /dev/md0
check mdadm --stop /dev/md0
rm -r /run/mdadm
check uzram remove zram0

say "bcache"
disk=$(uzram create --size 128M --frontend ublk)
check make-bcache -B "$disk"
[ -e /dev/bcache0 ] || echo "$disk" >/sys/fs/bcache/register
retry 10 test -b /dev/bcache0
on_top /dev/bcache0
echo 1 >/sys/block/bcache0/bcache/stop
retry 10 test ! -e /sys/block/bcache0
check uzram remove zram0

say "partitions of an nbd device that died for good"
disk=$(uzram create --size 128M --frontend nbd-kernel --partscan)
partition "$disk"
kill_both
uzram list 2>said
cat said
grep -qF "cleared nbd device $disk" said || fail "nothing was cleared"
retry 10 test ! -e "/sys/class/block/${disk#/dev/}p1"
test ! -e "${disk}p1"
