# about: swap on ublk under real memory pressure: 1.5 times the memory of a small guest, whose kernel keeps next to nothing free
# ci: slow
# memory: 768M
# modules: ublk_drv
# timeout: 400

check sysctl -q vm.min_free_kbytes=2752
swap_under_pressure 4G 150
