# about: what cannot be is refused in words, and a full, taken or used ublk device goes on
# timeout: 200
# allow-dmesg: ublkb0

# Demands an exit code and words on stderr, and nothing on stdout: refuses CODE WORDS COMMAND...
refuses() {
    local want=$1 words=$2 got=0
    shift 2
    "$@" >printed 2>said || got=$?
    say "\$ $* # $got: $(<said)"
    if [ "$got" != "$want" ]; then fail "exit code $got, not $want"; fi
    grep -qF -- "$words" said || fail "it does not say '$words'"
    if [ -s printed ]; then fail "it printed $(<printed)"; fi
}
create="uzram create --size 64M --frontend ublk"

say "no driver, and no way to load it"
mkdir away
rm -f /usr/bin/modprobe
mv /usr/sbin/modprobe away/
refuses 5 "modprobe ublk_drv" $create
uzram create --size 16M 2>said >path
cat said
grep -q 'no ublk: .*modprobe ublk_drv' said
uzram remove --all
cp -P away/modprobe /usr/sbin/
[ ! -e /sys/module/ublk_drv ] || fail "the module is there"

say "it is loaded where that is possible"
check $create --number 0
[ -e /sys/module/ublk_drv ] || fail "the module is not there"

say "somebody else"
user() { UZRAM_RUN_DIR=/tmp/user setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
chmod 1777 /tmp .
refuses 5 "Permission denied (os error 13) (ublk devices need root, or udev rules" user $create
equal "$(user uzram list --noheadings 2>&1)" "" "what is said afterwards"
refuses 4 "no device" user uzram remove zram0
UZRAM_RUN_DIR=/run/uzram refuses 5 "belongs to user 0" setpriv --reuid 1000 --regid 1000 --clear-groups uzram list

say "values that cannot be"
refuses 3 "/dev/ublkb0 exists already" $create --number 0
refuses 2 "1 to 2, one for each CPU" $create --queues 3
refuses 2 "1 to 2" $create --queues 0
refuses 2 "queues" $create --queues 70000
refuses 2 "1 to 4096" $create --queue-depth 0
refuses 2 "1 to 4096" $create --queue-depth 4097
refuses 2 "max-io 1000 is not possible" $create --max-io 1000
refuses 2 "33554432" $create --max-io 64M
refuses 2 "--listen is for --frontend nbd" $create --listen unix:/tmp/x
refuses 2 "--queues is for --frontend ublk" uzram create --size 1M --frontend nbd --queues 1
refuses 2 "--number is for --frontend ublk" uzram create --size 1M --frontend nbd --number 3
refuses 2 "512 or 4096" $create --block-size 1024
refuses 2 "0 to 1048575" $create --number 4000000000
equal "$(ls /sys/class/ublk-char)" "ublkc0" "ublk devices"

say "odd values that can be"
for options in "--queues 1 --queue-depth 1 --max-io 4K" "--queues 2 --queue-depth 4096" \
    "--buffers mapped --queue-depth 16 --max-io 32M" "--number 9 --block-size 512"; do
    disk=$($create $options)
    check fio --name=odd --filename="$disk" --direct=1 --ioengine=libaio --iodepth=32 --rw=randrw --bsrange=4k-1m \
        --size=16M --verify=crc32c --verify_fatal=1 --verify_backlog=16 --output=fio.out || { cat fio.out; fail fio; }
    case $options in *'number 9'*) equal "$disk" /dev/ublkb9 "the node" ;; esac
    uzram remove "$disk"
done

say "in use"
disk=/dev/ublkb0
mkfs.ext4 -q $disk
mount $disk /mnt
refuses 3 "$disk is in use: mounted at /mnt" uzram remove zram0
refuses 3 "$disk is in use: mounted at /mnt" uzram reset zram0
refuses 1 "" rmmod ublk_drv
cp /usr/bin/fio /mnt/
umount /mnt
sleep 1000 <$disk &
refuses 3 "open in process $! (sleep)" uzram remove zram0
kill $!
wait $! || :
mount -o ro $disk /mnt
check cmp /usr/bin/fio /mnt/fio
umount /mnt
mkswap $disk >/dev/null
swapon --discard $disk
refuses 3 "$disk is in use: swapped on" uzram remove $disk
swapoff $disk
refuses 1 "" rmmod ublk_drv
check uzram remove $disk

say "full"
disk=$($create --mem-limit 8M)
dd if=/dev/urandom of=noise bs=1M count=4 status=none
check dd if=noise of=$disk bs=1M oflag=direct status=none
if dd if=/dev/urandom of=$disk bs=1M seek=8 oflag=direct 2>said; then fail "more than the limit was written"; fi
cat said
grep -q 'No space left' said
check cmp -n 4194304 noise $disk
check dd if=/dev/zero of=$disk bs=1M count=32 seek=4 oflag=direct status=none
check blkdiscard -o 4M -l 60M $disk
check dd if=noise of=$disk bs=1M count=2 seek=30 oflag=direct status=none
check cmp -n 4194304 noise $disk
check uzram stat zram0
check uzram remove zram0
nothing_left

say "no driver under a device that nobody serves"
rmmod ublk_drv
refuses 4 "no device" uzram remove zram0
