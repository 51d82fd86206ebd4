#!/bin/sh
# Installs the programs that a set of make targets needs.
#
#   tools/setup.sh test        for make test
#   tools/setup.sh demo        for make demo
#   tools/setup.sh kernels     for make kernels
#   tools/setup.sh kubernetes  for make kubernetes
#   tools/setup.sh clients     for make clients
#
# On Debian and Ubuntu, as root, missing packages are printed and installed; services that
# they contain are not started. Elsewhere the missing programs are printed and the exit
# code is 1. SETUP=no only checks.
set -eu

# One line per program: the program, and the Debian package that has it.
demo='
dnsmasq dnsmasq
ip iproute2
prometheus prometheus
prometheus-alertmanager prometheus-alertmanager
'
test="$demo"'
make make
amtool prometheus-alertmanager
cc gcc
chromium chromium
curl curl
docker docker.io
dockerd docker.io
git git
groff groff-base
npm npm
promtool prometheus
python3 python3
rpm rpm
ss iproute2
strace strace
systemd-analyze systemd
zsh zsh
'
kernels='
aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
apt-get apt
depmod kmod
dpkg-deb dpkg
qemu-system-aarch64 qemu-system-arm
qemu-system-x86_64 qemu-system-x86
x86_64-linux-gnu-gcc gcc
xz xz-utils
zstd zstd
'
kubernetes='
containerd containerd
ctr containerd
dnsmasq dnsmasq
etcd etcd-server
ip iproute2
prometheus prometheus
runc runc
'
clients="$demo"'
curl curl
etcd etcd-server
haproxy haproxy
javac default-jdk-headless
mariadb mariadb-client
mariadbd mariadb-server
memcached memcached
nats-server nats-server
nft nftables
nginx nginx-light
node nodejs
npm npm
pgbouncer pgbouncer
php php-cli
psql postgresql-client
python3 python3
rabbitmq-server rabbitmq-server
redis-cli redis-tools
redis-server redis-server
ruby ruby
ss iproute2
ssh openssh-client
sshd openssh-server
'
# Packages without a program to look for.
test_libraries='ca-certificates libc6-dev'
clients_libraries='libcommons-dbcp2-java libhikaricp-java libhttpclient-java libmariadb-java libokhttp-java libpostgresql-jdbc-java
php-mysql php-pgsql php-redis postgresql python3-aiohttp python3-asyncpg python3-grpcio python3-h2 python3-httpx python3-mysqldb
python3-pika python3-psycopg python3-psycopg2 python3-pycurl python3-pymemcache python3-pymysql python3-redis python3-requests
python3-sqlalchemy python3-urllib3 ruby-mysql2 ruby-pg ruby-redis'
kernels_libraries='debian-archive-keyring libc6-dev libc6-dev-arm64-cross'
kubernetes_libraries='ca-certificates containernetworking-plugins'

case "${1:-}" in
demo) programs=$demo libraries= ;;
test) programs=$test libraries=$test_libraries ;;
kernels) programs=$kernels libraries=$kernels_libraries ;;
kubernetes) programs=$kubernetes libraries=$kubernetes_libraries ;;
clients) programs=$clients libraries=$clients_libraries ;;
*)
	echo "usage: tools/setup.sh test|demo|kernels|kubernetes|clients" >&2
	exit 2
	;;
esac

# missing prints "PROGRAM PACKAGE" for every program that is not on the PATH.
missing() {
	echo "$programs" | while read -r program package; do
		[ -z "$program" ] || command -v "$program" >/dev/null || echo "$program $package"
	done
}

# missing_libraries prints the packages of the list that dpkg does not have.
missing_libraries() {
	for package in $libraries; do
		dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || echo "$package"
	done
}

install() {
	# Newer releases have Docker's client in a package of its own.
	if echo "$*" | grep -qw docker.io && apt-cache show docker-cli >/dev/null 2>&1; then
		set -- "$@" docker-cli
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] && [ "${SETUP:-}" != no ]; then
	packages=$( (missing | cut -d' ' -f2; missing_libraries) | sort -u | tr '\n' ' ')
	if [ -n "$packages" ]; then
		echo "make $1 installs: $packages(SETUP=no to leave this out)"
		# invoke-rc.d starts no service while this file forbids it.
		policy=/usr/sbin/policy-rc.d
		if [ ! -e "$policy" ]; then
			trap 'rm -f "$policy"' EXIT
			trap 'exit 1' INT TERM
			printf '#!/bin/sh\nexit 101\n' >"$policy"
			chmod 755 "$policy"
		fi
		apt-get update
		# shellcheck disable=SC2086 # a list of words
		install $packages
	fi
fi

left=$(missing)
if [ -n "$left" ]; then
	echo "make $1 needs these programs (with the Debian package of each):" >&2
	echo "$left" | sed 's/\([^ ]*\) \(.*\)/  \1 (\2)/' >&2
	echo "On Debian and Ubuntu, run make $1 as root without SETUP=no; elsewhere, install them by hand." >&2
	exit 1
fi
