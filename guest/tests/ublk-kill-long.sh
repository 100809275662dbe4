# about: 200 kills of the server under verified load
# ci: slow
# modules: ublk_drv
# timeout: 1500

KILLS=200
. /guest/tests/ublk-kill.sh
