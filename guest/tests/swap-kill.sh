# about: the server of a swap device is killed while half of the guest's memory is swapped out to it
# ci: no
# memory: 1G
# modules: ublk_drv
# timeout: 240

# It does not pass yet: the next server asks for memory that only it could make free.

disk=$(uzram create --size 4G --swap --frontend ublk 2>warnings)
equal "$(cat warnings)" "" "warnings of a server that may do everything"
check sysctl -q vm.page-cluster=5 vm.min_free_kbytes=65536
total=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
check memhog $((total * 3 / 2)) 1 &
hog=$!
while [ "$(awk '/SwapFree/ { print int($2 / 1024) }' /proc/meminfo)" -gt $((4096 - total / 2)) ]; do
    kill -0 $hog || fail "memhog ended early"
    sleep 0.2
done
for round in 1 2 3; do
    server=$(record zram0 pid)
    say "kill $round: $server, $(awk '/SwapFree/ { print int($2 / 1024) }' /proc/meminfo) MiB of swap free"
    kill -KILL "$server"
    retry 60 served_by_other zram0 pid "$server"
    sleep 2
done
wait $hog || fail "memhog failed"
equal "$(attached zram0)" 3 "how often it was attached to"
check swapoff "$disk"
check uzram remove zram0
nothing_left
