# about: swap on ublk: 150 MiB more than there is free, every byte checked; what a swap device is made of
# ci: yes
# memory: 1G
# modules: ublk_drv
# timeout: 120

disk=$(uzram create --size 1G --swap --frontend ublk 2>warnings)
equal "$(grep warning warnings || :)" "" "warnings of a server that may do everything"
grep -q "^$disk " /proc/swaps || fail "$disk is no swap area"
expect_exit 3 uzram remove zram0
for pid in $(record zram0 pid) $(record zram0 keeper); do
    equal "$(cat /proc/$pid/oom_score_adj)" -1000 "oom_score_adj of $pid"
    [ "$(awk '/VmLck/ { print $2 }' /proc/$pid/status)" -gt 1000 ] || fail "$pid is not locked"
done
equal "$(cat /sys/block/ublkb0/queue/wbt_lat_usec)" 0 "write throttling"
available=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
check memhog $((available + 150)) 1
check uzram stat zram0
for pid in $(record zram0 pid) $(record zram0 keeper); do
    equal "$(awk '/VmSwap/ { print $2 }' /proc/$pid/status)" 0 "what was swapped out of $pid"
done
equal "$(uzram stat zram0 --json | grep -o '"failed_writes": *[0-9]*' | grep -o '[0-9]*$')" 0 "failed writes"
check swapoff "$disk"
check uzram remove zram0
expect_exit 2 uzram create --size 64M --swap --frontend nbd
nothing_left
