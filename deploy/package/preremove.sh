#!/bin/sh
# dpkg says "remove", rpm says how many versions will be left; an upgrade stops nothing.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now tcphup.service
	fi
	;;
esac
