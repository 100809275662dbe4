# about: swap on ublk without pressure (swap-kill has it): what a swap device is made of, what is refused, a full pool
# boot: shared
# modules: ublk_drv
# allow-dmesg: ublkb0
# timeout: 200

kept_free=$(sysctl -n vm.min_free_kbytes)
disk=$(uzram create --size 1G --swap --frontend ublk 2>warnings)
equal "$(grep warning warnings || :)" "" "warnings of a server that may do everything"
grep -q "^$disk " /proc/swaps || fail "$disk is no swap area"
expect_exit 3 uzram remove zram0
for pid in $(record zram0 pid) $(record zram0 keeper); do
    equal "$(cat /proc/$pid/oom_score_adj)" -1000 "oom_score_adj of $pid"
    [ "$(awk '/VmLck/ { print $2 }' /proc/$pid/status)" -gt 1000 ] || fail "$pid is not locked"
done
equal "$(cat /sys/block/ublkb0/queue/wbt_lat_usec)" 0 "write throttling"
check swapoff "$disk"
check uzram remove zram0

say "no room: refused before anything is taken"
expect_exit 2 uzram create --size 300G --swap --frontend ublk
expect_exit 2 uzram create --size 1G --swap --reserve 4G --frontend ublk
expect_exit 2 uzram create --size 1G --swap --reserve 64M --mem-limit 32M --frontend ublk
equal "$(sysctl -n vm.min_free_kbytes)" "$kept_free" "vm.min_free_kbytes after refusals"

say "a full pool fails the write at once"
disk=$(uzram create --size 256M --swap --mem-limit 48M --frontend ublk)
grep "^$disk\\s" /proc/swaps | grep -q '[[:space:]]100$' || fail "not priority 100: $(cat /proc/swaps)"
check swapoff "$disk"
if timeout 20 dd if=/dev/urandom of="$disk" bs=128k count=1000 oflag=direct 2>said; then fail "more than the limit was written"; fi
cat said
grep -q 'No space left' said || fail "it waited, or failed of something else"
check timeout 20 dd if="$disk" of=/dev/null bs=128k count=200 iflag=direct status=none
check uzram remove zram0
expect_exit 2 uzram create --size 64M --swap --frontend nbd
nothing_left
