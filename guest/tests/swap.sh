# about: swap on ublk under real memory pressure, three times the guest's memory, every byte checked
# ci: slow
# memory: 1G
# modules: ublk_drv
# timeout: 300

swap_under_pressure 6G 300
