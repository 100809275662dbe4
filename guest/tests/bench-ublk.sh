# about: speed and memory of ublk beside the kernel's zram; run by cargo xtask bench guest
# ci: no
# memory: 2G
# timeout: 3600
# modules: ublk_drv zram lz4 zstd

options=(--rounds "$(parameter rounds 3)" --seconds "$(parameter seconds 1)")
cells=$(parameter cells all)
case $cells in
    few) options+=(--bs 4K --jobs 1) ;;
    all) ;;
    *) fail "cells=$cells: few or all" ;;
esac
check uzram-bench lab ublk "${options[@]}" --json ublk.json
save ublk.json
