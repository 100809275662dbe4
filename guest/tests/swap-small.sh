# about: swap on ublk under real memory pressure, in a small guest whose kernel keeps next to nothing free
# memory: 640M
# modules: ublk_drv
# timeout: 200

check sysctl -q vm.min_free_kbytes=2752
kept_free=$(sysctl -n vm.min_free_kbytes)
disk=$(uzram create --size 4G --swap --frontend ublk 2>warnings)
equal "$(grep warning warnings || :)" "" "warnings of a server that may do everything"
check cat /proc/swaps
grep -q "^$disk " /proc/swaps || fail "$disk is no swap area"
expect_exit 3 uzram remove zram0
server=$(uzram list --noheadings --output pid)
keeper=$(uzram list --noheadings --output keeper)
for pid in $server $keeper; do
    equal "$(cat /proc/$pid/oom_score_adj)" -1000 "oom_score_adj of $pid"
    [ "$(awk '/VmLck/ { print $2 }' /proc/$pid/status)" -gt 1000 ] || fail "$pid is not locked"
    equal "$(awk '/VmSwap/ { print $2 }' /proc/$pid/status)" 0 "what is swapped out of $pid"
done
before=$(awk '/VmRSS/ { print $2 }' /proc/$server/status)
say "server before: $before KiB resident"

# An emulated processor takes half a millisecond to fault one page in: fault in 32.
check sysctl -q vm.page-cluster=5
total=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
check memhog $((total * 3)) 1 &
hog=$!
while kill -0 $hog 2>/dev/null; do
    sleep 5
    awk '/MemFree|SwapFree/ { printf "%s %d MiB  ", $1, $2 / 1024 } END { print "" }' /proc/meminfo
done
wait $hog || fail "memhog failed"
check uzram stat zram0
equal "$(awk '/VmSwap/ { print $2 }' /proc/$server/status)" 0 "what was swapped out of the server"
equal "$(uzram stat zram0 --json | grep -o '"failed_writes": *[0-9]*' | grep -o '[0-9]*$')" 0 "failed writes"
# The hog is gone: its slots are discarded, and the memory goes back.
check swapoff "$disk"
check blkdiscard "$disk"
sleep 2
check uzram list
check uzram remove zram0
nothing_left
equal "$(sysctl -n vm.min_free_kbytes)" "$kept_free" "vm.min_free_kbytes afterwards"
