# about: a machine that sleeps and wakes with disks mounted and in use, and swap: what was there is there, and goes on
# modules: ublk_drv loop ext4 fuse
# timeout: 300

# This kernel has no pm_test (CONFIG_PM_DEBUG), but it sleeps in earnest: all tasks are frozen and all devices suspended, until
# the clock rings.
[ ! -e /sys/power/pm_test ] || say "there is pm_test, too: $(cat /sys/power/pm_test)"
check cat /sys/power/state
clock=/sys/class/rtc/rtc0/wakealarm

# Sleeps some seconds. The result is the system's: sleep_for SECONDS
sleep_for() {
    local got=0
    echo 0 >$clock
    echo "+$1" >$clock
    (echo freeze >/sys/power/state) 2>said || got=$?
    echo 0 >$clock
    cat said
    say "slept or not: $got; $(cat /sys/power/suspend_stats/success) times in all"
    return $got
}

slept() { cat /sys/power/suspend_stats/success; }

say "what there is without uzram"
sleep_for 3 || fail "this machine does not sleep at all"
equal "$(slept)" 1 "how often it slept"

say "two disks that are mounted, and swap"
ublk=$(uzram create --size 128M --frontend ublk)
loop=$(uzram create --size 128M --frontend fuse-loop)
mkdir /mnt/ublk /mnt/loop
for kind in ublk loop; do
    check mkfs.ext4 -q "${!kind}"
    check mount "${!kind}" /mnt/$kind
    cp -r /usr/sbin /mnt/$kind/copy
done
swap=$(uzram create --size 128M --swap --frontend ublk --algorithm lz4)

say "asleep while nobody does anything"
sleep_for 3 || fail "the machine does not sleep while the disks are idle"
for kind in ublk loop; do check diff -r /usr/sbin /mnt/$kind/copy; done
echo 3 >/proc/sys/vm/drop_caches
for kind in ublk loop; do check diff -r /usr/sbin /mnt/$kind/copy; done

# A task that waits for a disk whose server is frozen already cannot be frozen. Linux gives up after a while, and all goes on.
echo 3000 >/sys/power/pm_freeze_timeout
say "asleep under load: it sleeps or says that it cannot, and nothing is lost"
for kind in ublk loop; do
    fio --name=load --directory=/mnt/$kind --direct=1 --ioengine=libaio --iodepth=8 --rw=randrw --bsrange=4k-64k \
        --size=32M --verify=crc32c --verify_fatal=1 --verify_backlog=32 --buffer_compress_percentage=50 --time_based \
        --runtime=40 --output=$kind.out &
    eval "fio_$kind=$!"
done
sleep 3
asleep=0 refused=0
for _ in 1 2 3 4; do
    if sleep_for 3; then asleep=$((asleep + 1)); else refused=$((refused + 1)); fi
    sleep 2
done
result asleep_under_load $asleep
result refused_under_load $refused
wait $fio_ublk || { cat ublk.out; fail "fio on ublk"; }
wait $fio_loop || { cat loop.out; fail "fio on fuse-loop"; }
grep -h err= ublk.out loop.out

say "asleep with pages on the swap"
check sysctl -q vm.swappiness=200
check memhog $(($(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo) * 95 / 100)) 1 &
hog=$!
sleep 5
awk '/SwapFree|SwapTotal/' /proc/meminfo
sleep_for 3 && result asleep_while_swapping 1 || result asleep_while_swapping 0
wait $hog || fail "memhog found other contents than it had written, or was killed"

check swapoff "$swap"
for kind in ublk loop; do
    check umount /mnt/$kind
    check e2fsck -fn "${!kind}"
done
check uzram remove --all
nothing_left
