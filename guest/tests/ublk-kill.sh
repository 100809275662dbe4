# about: kill -9 of server and keeper, again and again, under verified load: nothing is lost, nothing fails
# boot: shared
# modules: ublk_drv ext4
# timeout: 400

kills=${KILLS:-20}
disk=$(uzram create --size 256M --frontend ublk)
size='--size=48M --offset_increment=64M'
common="--filename=$disk --direct=1 --numjobs=4 $size --bsrange=4k-256k --verify=crc32c --verify_fatal=1
    --buffer_compress_percentage=50 --group_reporting"

# Runs fio, and shows what it said if it fails: fio_ok NAME OPTION...
fio_ok() {
    local name=$1
    shift
    fio --name="$name" "$@" --output="fio.$name" || { cat "fio.$name"; fail "fio $name"; }
}

# Kills the server so many times while a job of the background runs, which begins anew whenever it is done.
storm() {
    local count=$1 job done=0
    shift
    "$@" &
    job=$!
    while [ "$done" -lt "$count" ]; do
        if ! kill -0 "$job" 2>/dev/null; then
            wait "$job"
            "$@" &
            job=$!
        fi
        kill_server zram0
        done=$((done + 1))
    done
    wait "$job"
}

say "kills under reads and writes"
first=$((kills / 2))
storm $first fio_ok mixed $common --rw=randrw --ioengine=libaio --iodepth=8 --verify_backlog=32
equal "$(attached zram0)" $first "servers that attached"

say "kills under writes, then all is read"
written="$common --rw=randwrite --ioengine=io_uring --iodepth=8 --randseed=7"
storm $((kills - first)) fio_ok write $written --do_verify=0
equal "$(attached zram0)" "$kills" "servers that attached"
fio_ok verify $written --verify_only
result kills "$kills"
result attached "$(attached zram0)"
equal "$(record zram0 path)" "$disk" "the path"
check uzram list --output +pid,keeper

if [ "$kills" = 20 ]; then
    say "a kill while a file system is made"
    mkfs.ext4 -q "$disk" &
    job=$!
    kill_server zram0
    wait $job
    check e2fsck -fn "$disk"

    say "kills of the keeper, and of the server that outlived it, with a file system in use"
    check mount "$disk" /mnt
    work() {
        local n
        for n in 1 2 3 4; do
            cp -r /usr/sbin "/mnt/$n"
            sync -f /mnt
            diff -r /usr/sbin "/mnt/$n"
        done
    }
    work &
    job=$!
    for _ in 1 2 3; do
        keeper=$(record zram0 keeper)
        kill_of zram0 keeper
        retry 20 served_by_other zram0 keeper "$keeper"
        sleep 0.5
        kill_server zram0
        sleep 0.5
    done
    wait $job
    kill_server zram0
    check umount /mnt
    kill_server zram0
    check e2fsck -fn "$disk"
    check mount "$disk" /mnt
    for n in 1 2 3 4; do check diff -r /usr/sbin "/mnt/$n"; done
    check umount /mnt
fi
save /run/uzram/zram0/log zram0.log
check uzram remove zram0
nothing_left
