# about: 8 devices made and removed side by side, 3 times, leave nothing behind
# ci: slow
# boot: shared
# modules: ublk_drv
# timeout: 400

used() { awk '/^Shmem:/ { shmem = $2 } /^MemAvailable:/ { free = $2 } END { print shmem, free }' /proc/meminfo; }
# One round warms up what the kernel and the shell keep.
rounds=${ROUNDS:-3}
begin=$EPOCHREALTIME
for ((round = 0; round <= rounds; round++)); do
    jobs=()
    for n in 0 1 2 3 4 5 6 7; do
        uzram create --size 64M --frontend ublk >"path$n" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job"; done
    equal "$(sort -u path? | wc -l)" 8 "different paths"
    jobs=()
    for n in 0 1 2 3 4 5 6 7; do
        {
            # In most rounds the programs' own starts are all that takes time.
            if [ $((round % 5)) = 0 ]; then
                dd if=/usr/bin/uzram of="$(<path$n)" bs=64k count=4 oflag=direct status=none
            fi
            uzram remove "$(<path$n)"
        } &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job"; done
    if [ $round = 0 ]; then
        nothing_left
        echo 3 >/proc/sys/vm/drop_caches
        before=($(used))
    fi
    if [ $((round % 10)) = 0 ]; then say "round $round"; fi
done
nothing_left
echo 3 >/proc/sys/vm/drop_caches
after=($(used))
say "Shmem and MemAvailable in KiB: ${before[*]} before, ${after[*]} after"
# For each device that was made, 1.3 KiB of the one, and what the kernel takes once; 31 KiB of the other, and 4 MiB likewise.
[ "${after[0]}" -lt $((before[0] + 64 + rounds * 10)) ] || fail "shared memory is left"
[ "${after[1]}" -gt $((before[1] - 4096 - rounds * 246)) ] || fail "memory is missing"
result seconds "$((${EPOCHREALTIME%.*} - ${begin%.*}))"
