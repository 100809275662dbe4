# about: servers killed while they take over: the kernel lives, the contents stay, also where the driver gives up
# modules: ublk_drv
# timeout: 300
# allow-dmesg: I/O error, dev ublkb|Buffer I/O error on dev ublkb

reads_back() {
    dd if="$(record zram0 path)" of=got bs=64k count=4 iflag=direct status=none 2>/dev/null && cmp -s want got
}

# Linux 6.12's driver cannot begin a takeover again in which some queues had a server and some had none: it follows a
# null pointer. uzram must notice, and replace the device.
disk=$(uzram create --size 64M --frontend ublk)
dd if=/dev/urandom of=want bs=64k count=4 status=none
dd if=want of="$disk" bs=64k oflag=direct status=none
keeper=$(record zram0 keeper)

# Whether a process has begun to take over: it has the queue's thread.
takes_over() {
    local comm name
    for comm in "/proc/$1/task"/*/comm; do
        { read -r name <"$comm"; } 2>/dev/null || continue
        case $name in ublk*-q"$2") return 0 ;; esac
    done
    return 1
}

for ((round = 0; round < ${ROUNDS:-15}; round++)); do
    old=$(record zram0 pid)
    kill -KILL "$old"
    last=$old
    for _ in 1 2; do
        new=$last
        while [ -z "$new" ] || [ "$new" = "$last" ]; do
            new=
            # The list ends without a newline, which read takes for a failure.
            { read -r new _ <"/proc/$keeper/task/$keeper/children"; } 2>/dev/null || :
        done
        queue=$((RANDOM % 2))
        while [ -e "/proc/$new" ] && ! takes_over "$new" $queue; do :; done
        for ((n = RANDOM % 30; n > 0; n--)); do :; done
        kill -KILL "$new" || :
        last=$new
    done
    retry 30 served_by_other zram0 pid "$old"
    # Where the device had to be replaced the old one fails, and the record may name it for a moment more.
    retry 30 reads_back
done
result replaced "$(grep -c 'it is replaced' /run/uzram/zram0/log || :)"
result resumed "$(grep -c 'served again' /run/uzram/zram0/log)"
save /run/uzram/zram0/log zram0.log
check uzram remove zram0
nothing_left
