# about: swap on a frontend that is not safe for it: said once, loudly, by whatever way it came
# ci: slow
# boot: shared
# modules: loop fuse nbd
# timeout: 180
# allow-dmesg: nbd0

# Whether so many warnings of a device are in its log: is_logged COUNT NODE
is_logged() {
    [ "$(grep -c "WARN .*WARNING: zram0 .*swapoff $2" /run/uzram/zram0/log)" = "$1" ]
}

for frontend in fuse-loop nbd-kernel; do
    say "$frontend: a swapon is seen, by the node and by another one of the same number"
    expect_exit 2 uzram create --size 64M --swap --frontend $frontend
    disk=$(uzram create --size 64M --frontend $frontend)
    check mkswap "$disk"
    mknod other b $((0x$(stat -c %t "$disk"))) $((0x$(stat -c %T "$disk")))
    check swapon "$disk"
    retry 10 is_logged 1 "$disk"
    check swapoff "$disk"
    # The log counts what is said again within ten seconds.
    sleep 11
    check swapon ./other
    # It names what swapoff takes.
    retry 10 is_logged 1 "$PWD/other"
    check swapoff "$disk"
    rm other
    check uzram remove zram0

    say "$frontend: allowed"
    disk=$(uzram create --size 64M --frontend $frontend --allow-unsafe-swap)
    check mkswap "$disk"
    check swapon "$disk"
    sleep 1
    equal "$(grep -c WARNING /run/uzram/zram0/log || :)" 0 "warnings"
    check swapoff "$disk"
    check uzram remove zram0

    say "$frontend: through the shim, and left on"
    cat >script <<'END'
set -eu
modprobe zram
echo 64M >/sys/block/zram0/disksize
mkswap /dev/zram0
swapon /dev/zram0
[ "${1-}" = stay ] || swapoff /dev/zram0
END
    check uzram shim --frontend $frontend -- bash script 2>said
    equal "$(grep -c WARNING said)" 1 "warnings: $(cat said)"
    check uzram shim --frontend $frontend --allow-unsafe-swap -- bash script 2>said
    equal "$(cat said)" "" "what is said of what is allowed"
    check uzram shim --frontend $frontend -- bash script stay 2>said
    cat said
    off=$(sed -n 's/.*is still swap.*: swapoff //p' said)
    [ -b "$off" ] || fail "no node is named: '$off'"
    equal "$(wc -l </proc/swaps)" 2 "lines of /proc/swaps"
    check swapoff "$off"
    equal "$(wc -l </proc/swaps)" 1 "lines of /proc/swaps"
    # It clears what the shim before it had to leave.
    check uzram shim --frontend $frontend -- true
    nothing_left
done
rm script said

say "nbd: by a client of this machine"
check uzram create --size 64M --frontend nbd
check nbd-client -unix /run/uzram/zram0/nbd.sock -N zram0 -b 4096 /dev/nbd0
check mkswap /dev/nbd0
check swapon /dev/nbd0
retry 10 is_logged 1 /dev/nbd0
check swapoff /dev/nbd0
check nbd-client -d /dev/nbd0
check uzram remove zram0
nothing_left
