# about: a user makes a ublk device of its own, which udev gives to it; what a killed server of it leaves
# modules: ublk_drv
# timeout: 120
# allow-dmesg: ublkb[01]

mkdir -p /etc/udev/rules.d /run/udev
chmod 1777 /tmp .
user() { UZRAM_RUN_DIR=/tmp/user setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all "$@"; }
create="uzram create --size 64M --frontend ublk"

say "a user who may not"
expect_exit 5 user $create

say "the driver is there for users, but udev does not give nodes to them"
chmod 666 /dev/ublk-control
if user $create 2>said; then fail "it works without udev"; fi
cat said
grep -q 'udev rules' said
check uzram list 2>said
cat said
grep -q 'cleared /dev/ublkb0' said
equal "$(ls /sys/class/ublk-char)" "" "ublk devices"
chmod 600 /dev/ublk-control

say "with the rules"
cp /guest/90-uzram-ublk.rules /etc/udev/rules.d/
ln -s udevadm "$(dirname "$(command -v udevadm)")/systemd-udevd"
systemd-udevd --daemon
udevadm trigger --action=add --sysname-match=ublk-control
udevadm settle
equal "$(stat -c %a /dev/ublk-control)" 666 "mode of the control node"
disk=$(user $create)
equal "$disk" /dev/ublkb0 "the node"
equal "$(stat -c '%u %g %a' /dev/ublkb0)" "1000 1000 600" "the node's owner and mode"
check user fio --name=user --filename="$disk" --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=4k-512k \
    --size=32M --verify=crc32c --verify_fatal=1 --output=fio.out || { cat fio.out; fail fio; }
user dd if=/usr/bin/fio of="$disk" bs=1M count=1 oflag=direct conv=fsync status=none
check user uzram list
root=$($create --number 7)
equal "$(stat -c '%u %a' "$root")" "0 600" "owner and mode of root's own"
if user dd if="$root" of=/dev/null count=8 status=none 2>said; then fail "a user reads root's device"; fi
check uzram remove --all
expect_exit 5 user $create --buffers user-copy

say "its server is killed: the contents are behind a new node"
server=$(sed -n 's/^ *"pid": \([0-9]*\),$/\1/p' /tmp/user/zram0/device.json)
kill -KILL "$server"
served() { [ "$(sed -n 's/^ *"pid": \([0-9]*\),$/\1/p' /tmp/user/zram0/device.json)" != "$server" ]; }
retry 60 served
disk=$(user uzram list --noheadings --output path)
check user cmp -n 1048576 /usr/bin/fio "$disk"

say "server and keeper are killed: the user's next command clears it"
kill_together $(processes)
retry 10 no_process
check user uzram list 2>said
cat said
grep -q "$disk" said
equal "$(ls /sys/class/ublk-char)" "" "ublk devices"
user $create
check user uzram remove --all
udevadm control --exit
nothing_left
