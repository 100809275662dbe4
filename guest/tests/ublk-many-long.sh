# about: 8 devices made and removed side by side, 100 times, leave nothing behind
# ci: slow
# boot: shared
# modules: ublk_drv
# timeout: 1500

ROUNDS=100
. /guest/tests/ublk-many.sh
