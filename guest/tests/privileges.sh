# about: servers of every frontend have the capabilities that it declares, and serve, recover and end with them
# boot: shared
# modules: ublk_drv nbd loop
# timeout: 180
# allow-dmesg: nbd0

# CAP_DAC_READ_SEARCH 2, CAP_IPC_LOCK 14, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21, CAP_SYS_NICE 23, CAP_SYS_RESOURCE 24,
# CAP_MKNOD 27.
node=$((1 << 2 | 1 << 19 | 1 << 21))
swap=$((1 << 14 | 1 << 23 | 1 << 24))

# Compares those of all threads of the server of zram0.
has() {
    local thread
    for thread in /proc/$(record zram0 pid)/task/*; do
        equal "$(awk '/^NoNewPrivs/ { print $2 }' "$thread/status")" 1 "NoNewPrivs of $thread"
        equal "$((16#$(awk '/^CapPrm/ { print $2 }' "$thread/status")))" "$1" "capabilities of $thread"
    done
}

# Creates, kills server and keeper, upgrades, removes.
lives_with() {
    local capabilities=$1
    shift
    check uzram create --size 64M "$@"
    has "$capabilities"
    kill_server zram0
    has "$capabilities"
    check uzram upgrade zram0
    has "$capabilities"
}

lives_with $((node | 1 << 14)) --frontend ublk
check uzram remove zram0
lives_with "$node" --frontend nbd-kernel
check uzram remove zram0
lives_with $((node | 1 << 27)) --frontend fuse-loop --fuse-uring off
check uzram remove zram0
lives_with $((node | 1 << 14 | 1 << 27)) --frontend fuse-loop
check uzram remove zram0
lives_with 0 --frontend nbd
check uzram remove zram0
lives_with $((node | swap)) --frontend ublk --swap
disk=$(record zram0 path)
check swapoff "$disk"
check uzram remove zram0
