# about: zram's own interface on ublk: through the shim, and through the daemon
# boot: shared
# modules: loop fuse ublk_drv

# A number of its own before it has a size, ublk's afterwards.
cat >script <<'END'
set -eux
modprobe zram num_devices=2
ls /dev/zram0 /dev/zram1
echo zstd >/sys/block/zram0/comp_algorithm
echo 256M >/sys/block/zram0/disksize
readlink /sys/dev/block/"$(cat /sys/block/zram0/dev)"
mkfs.ext4 -q /dev/zram0
mount /dev/zram0 /mnt
head -c 8000000 /dev/zero | tr '\0' x >/mnt/file
sync
! echo 1 >/sys/block/zram0/reset
cat /sys/block/zram0/mm_stat /sys/block/zram0/stat
umount /mnt
echo 1 >/sys/block/zram0/reset
test "$(cat /sys/block/zram0/disksize)" = 0
echo 128M >/sys/block/zram1/disksize
mkswap /dev/zram1
swapon /dev/zram1
cat /proc/swaps
! rmmod zram
swapoff /dev/zram1
rmmod zram
! ls /dev/zram0
END
mkdir -p /mnt
# Not sh, which is busybox here and has a modprobe of its own.
check uzram shim --frontend ublk -- bash script
equal "$(uzram list --noheadings)" "" "devices that are left"

uzram daemon --config /dev/null 2>daemon.log &
daemon=$!
retry 50 test -S /run/uzram/uzramd.sock
disk=$(uzram create --size 256M --frontend ublk -a zstd)
check fio --name=w --filename="$disk" --rw=write --bs=64k --size=64M --direct=1 --verify=crc32c --do_verify=0 --verify_state_save=0 --output=fio.log
retry 50 grep -q 'its memory is held' daemon.log
sleep 1
# Both at once: without the daemon that was the end of the contents.
read -r server keeper <<<"$(uzram list --noheadings --raw --output pid,keeper)"
kill_together "$server" "$keeper"
check fio --name=r --filename="$disk" --rw=read --bs=64k --size=64M --direct=1 --verify=crc32c --verify_state_save=0 --output=fio.log
equal "$(uzram get zram0 initstate)" 1 "initstate"
save daemon.log
check uzram remove zram0
kill $daemon
wait $daemon || :
# What the daemon keeps for its next start.
rm /run/uzram/uzramd.json /run/uzram/history.json
