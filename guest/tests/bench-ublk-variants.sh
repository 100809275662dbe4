# about: ublk's settings against each other; run by cargo xtask bench guest --variants
# ci: no
# memory: 2G
# timeout: 1200
# modules: ublk_drv

. /guest/bench.sh
rounds=$(parameter rounds 3)
seconds=$(parameter seconds 1)

for algorithm in null lz4; do
    uzram_device copy-$algorithm $algorithm --buffers user-copy
    uzram_device mapped-$algorithm $algorithm --buffers mapped
    uzram_device copy1x256-$algorithm $algorithm --buffers user-copy --queues 1 --queue-depth 256
    uzram_device mapped1x256-$algorithm $algorithm --buffers mapped --queues 1 --queue-depth 256
done
servers
fill
memory filled
for ((round = 0; round < rounds; round++)); do
    for op in randwrite randread; do
        cell $round "$seconds" $op 4k 1 1
        cell $round "$seconds" $op 4k 32 1
        cell $round "$seconds" $op 4k 32 2
        cell $round "$seconds" $op 128k 32 1
    done
done
memory end
