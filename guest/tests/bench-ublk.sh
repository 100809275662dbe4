# about: speed and memory of ublk beside the kernel's zram; run by cargo xtask bench guest
# ci: no
# memory: 2G
# timeout: 1800
# modules: ublk_drv zram lz4 zstd

. /guest/bench.sh
rounds=$(parameter rounds 3)
seconds=$(parameter seconds 1)
cells=$(parameter cells all)

zram_device zram-lz4 lz4
zram_device zram-zstd zstd
zram_device zram-deflate deflate
uzram_device uzram-lz4 lz4
uzram_device uzram-zstd zstd
uzram_device uzram-deflate deflate
uzram_device uzram-null null
servers
check uzram list --output +pid
fill
memory filled
case $cells in
    few) loads=("4k 1 1" "4k 32 1" "128k 32 1") ;;
    all) loads=("4k 1 1" "4k 1 2" "4k 32 1" "4k 32 2" "128k 1 1" "128k 1 2" "128k 32 1" "128k 32 2") ;;
    *) fail "cells=$cells: few or all" ;;
esac
for ((round = 0; round < rounds; round++)); do
    for op in randwrite randread; do
        for load in "${loads[@]}"; do
            cell $round "$seconds" $op $load
        done
    done
done
memory end
