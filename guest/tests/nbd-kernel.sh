# about: the kernel's NBD client on our server: limits, a file system, fio, refusals, removal
# boot: shared
# timeout: 180

# Starts the example; its node is then in $node.
start() {
    coproc SERVER { exec nbd-kernel "$@"; }
    # Bash forgets it when the process ends.
    server=$SERVER_PID
    read -r node <&"${SERVER[0]}" || fail "no node: $*"
    say "node $node ($*)"
}
# Gives the example a line; its answer is then in $answer.
tell() {
    echo "$*" >&"${SERVER[1]}"
    read -r answer <&"${SERVER[0]}" || fail "no answer: $*"
    say "$*: $answer"
}
queue() { cat "/sys/block/${node##*/}/queue/$1"; }

# To ask for the family makes the kernel load the module, where it can.
modprobe=$(</proc/sys/kernel/modprobe)
echo /nonexistent >/proc/sys/kernel/modprobe
if nbd-kernel --probe 2>probe; then fail "there is no nbd, and it did not notice"; fi
grep -q "modprobe nbd" probe || fail "$(cat probe)"
echo "$modprobe" >/proc/sys/kernel/modprobe
check nbd-kernel --probe
if setpriv --reuid 1000 --clear-groups nbd-kernel --probe 2>probe; then fail "only root can do it"; fi
grep -q root probe || fail "$(cat probe)"
modprobe ext4

start --size-mib 256
equal "$(blockdev --getsize64 "$node")" $((256 << 20)) size
equal "$(blockdev --getss "$node")" 4096 "block size"
equal "$(queue discard_max_bytes)" 4294966784 "largest discard"
equal "$(queue write_zeroes_max_bytes)" 4294966784 "largest write-zeroes"
equal "$(queue fua)" 1 FUA
equal "$(queue write_cache)" "write back" flush
equal "$(cat "/sys/block/${node##*/}/backend")" uzram:example backend
equal "$(ls "/sys/block/${node##*/}/mq" | wc -l)" 2 queues

check mkfs.ext4 -q "$node"
check mount -o discard "$node" /mnt
check cp -r /usr/bin /mnt/bin
tell remove
[[ $answer == "error: $node is in use: mounted at /mnt (umount it first)" ]] || fail "not refused"
check fstrim -v /mnt
check umount /mnt
check e2fsck -fn "$node"
check mount "$node" /mnt
check diff -r /usr/bin /mnt/bin
check umount /mnt
tell attach "${node#/dev/nbd}"
[[ $answer == "error: $node is taken: it is connected already" ]] || fail "not refused"

check fio --name=verify --filename="$node" --rw=randrw --bs=4k --ioengine=libaio --iodepth=16 --direct=1 \
    --numjobs=4 --size=16M --offset_increment=32M --verify=crc32c --verify_fatal=1 --output=fio.txt
check fio --name=large --filename="$node" --rw=write --bs=4M --ioengine=libaio --iodepth=2 --direct=1 \
    --size=64M --verify=crc32c --verify_fatal=1 --output=fio.txt
noise 64 | check dd of="$node" bs=1M iflag=fullblock oflag=direct status=none
check blkdiscard -z -o 1M -l 32M "$node"
check cmp -n 32M -i 1M:0 "$node" /dev/zero
check blkdiscard "$node"
check cmp -n 256M "$node" /dev/zero
check dd if=/dev/zero of="$node" bs=4k count=100 oflag=direct,dsync status=none

tell remove
equal "$answer" ok removal
wait "$server"
equal "$(cat "/sys/block/${node##*/}/size")" 0 "size after the removal"
[ ! -e "/sys/block/${node##*/}/pid" ] || fail "it is still connected"

start --size-mib 64 --block-size 512 --index 5 --connections 1
equal "$node" /dev/nbd5 node
equal "$(blockdev --getss "$node")" 512 "block size"
equal "$(ls "/sys/block/nbd5/mq" | wc -l)" 1 queues
check fio --name=small --filename="$node" --rw=randrw --bs=512 --ioengine=libaio --iodepth=16 --direct=1 \
    --size=4M --verify=crc32c --verify_fatal=1 --output=fio.txt
# By somebody else: then there is nothing left to remove.
check nbd-client -d "$node"
tell remove
equal "$answer" ok removal
wait "$server"
# Beyond nbds_max a device is made.
start --index 40
check dd if="$node" of=/dev/null bs=1M status=none
tell remove
equal "$answer" ok removal
