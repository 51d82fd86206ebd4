#!/bin/sh
# Prints the version of this checkout. It increases with every commit in the order of
# Debian and RPM packages:
#
#   0.1.0~git20261125213000.7aec1c2   before the tag v0.1.0: commit time in UTC, commit
#   0.1.0                             the commit with the tag v0.1.0
#   0.1.1~git...                      after it
#
# The number is the content of the file VERSION; .dirty follows where files differ from
# the commit. Without git it is that number alone.
set -eu
cd "$(dirname "$0")/.."
number=$(cat VERSION)

commit=$(git log -1 --format=%h --abbrev=7 2>/dev/null) || {
	echo "$number"
	exit
}
dirty=
git diff --quiet HEAD 2>/dev/null || dirty=.dirty
if git merge-base --is-ancestor "v$number" HEAD 2>/dev/null; then
	if [ -z "$dirty" ] && [ "$(git rev-parse "v$number^{commit}")" = "$(git rev-parse HEAD)" ]; then
		echo "$number"
		exit
	fi
	number=${number%.*}.$((${number##*.} + 1))
fi
echo "$number~git$(TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S).$commit$dirty"
