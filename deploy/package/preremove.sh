#!/bin/sh
# $1 is "remove" from dpkg, and from rpm the number of remaining versions. An upgrade keeps
# the unit running.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now tcphup.service
	fi
	;;
esac
