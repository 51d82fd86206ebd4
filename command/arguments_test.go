package command

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"tcphup/internal/address"
	"tcphup/sockdiag"
)

// describe returns the selection of a command line as text, or its error.
func describe(t *testing.T, args []string) string {
	t.Helper()
	names := fakeResolver{
		"db.internal": {netip.MustParseAddr("10.0.0.5")},
		"db":          {netip.MustParseAddr("10.0.0.5")},
		"localhost":   {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
		"dst":         {netip.MustParseAddr("10.0.0.9")},
		"any":         {netip.MustParseAddr("10.0.0.9")},
		"tcp":         {netip.MustParseAddr("10.0.0.9")},
		"https":       {netip.MustParseAddr("10.0.0.9")},
	}
	app, commands := newApp(args)
	parsed, parseErr := app.ParseContext(args)
	name, err := (&commandLine{app, parsed, args}).parse(parseErr)
	if err != nil {
		return err.Error()
	}
	var s *selection
	switch c := commands[name].(type) {
	case *hangupCommand:
		c.stderr, c.names, s = io.Discard, names.resolve, &c.selection
		err = c.parse(t.Context())
	case *list:
		c.stderr, c.names, s = io.Discard, names.resolve, &c.selection
		err = c.parse(t.Context())
	default:
		return name
	}
	if err != nil {
		if !errors.Is(err, ErrUsage) {
			t.Errorf("%q: the error does not match ErrUsage", args)
		}
		return err.Error()
	}
	selected := []string{name}
	switch all := sockdiag.Everywhere(); {
	case len(s.selector.Destinations) == 2 && s.selector.Destinations[0] == all[0]:
		selected = append(selected, "everywhere")
	default:
		for _, p := range s.selector.Destinations {
			selected = append(selected, address.Format(p))
		}
	}
	selected = append(selected, "port", sockdiag.FormatPorts(s.selector.Ports))
	if s.selector.Direction != sockdiag.Outbound {
		selected = append(selected, s.selector.Direction.String())
	}
	for _, p := range s.selector.Except {
		selected = append(selected, "except "+address.Format(p))
	}
	return strings.Join(append(selected, s.filters()...), " ")
}

// words splits a line as a shell does, with single quotes only.
func words(line string) []string {
	var list []string
	quoted, open := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			if quoted = !quoted; !open {
				list, open = append(list, ""), true
			}
		case r == ' ' && !quoted:
			open = false
		default:
			if !open {
				list, open = append(list, ""), true
			}
			list[len(list)-1] += string(r)
		}
	}
	return list
}

// Argument lists that people write, also in the form of other tools. None selects more than
// was meant.
func TestArguments(t *testing.T) {
	tests := []struct{ line, want string }{
		// the classic form, and lists of ports
		{"10.0.0.5 5432", "hangup 10.0.0.5 port 5432"},
		{"list 10.0.0.5 5432", "list 10.0.0.5 port 5432"},
		{"10.0.0.5 6.5.4.3 5432", "hangup 6.5.4.3 10.0.0.5 port 5432"},
		{"db 5432,6432", "hangup 10.0.0.5 port 5432,6432"},
		{"db 5432-5440,6432,https", "hangup 10.0.0.5 port 5432-5440,6432,443"},
		{"10.0.0.5 :5432", "hangup 10.0.0.5 port 5432"},
		{"db smtp", "hangup 10.0.0.5 port 25"},
		{"db.internal 0", "hangup 10.0.0.5 port 0"},
		{"10.20.0.0/16 0", "hangup 10.20.0.0/16 port 0"},
		{"localhost 80", "hangup 127.0.0.1 ::1 port 80"},
		{"db 5432 --except 10.0.0.7 --dry-run", "hangup 10.0.0.5 port 5432 except 10.0.0.7"},
		{"db 5432 6432", `HOST "5432" is a number: write several ports as one word after the hosts, such as 5432,6432`},
		{"db 5440-5432", `PORT "5440-5432" is a range that ends before it begins: write 5432-5440`},
		{"db 5432-", `PORT "5432-" is not a range of ports from 1 to 65535: write one such as 5432-5440`},
		{"db 5432,", `PORT "5432," is neither a number from 0 to 65535 nor a known service name; write 5432, 5432,6432, 5432-5440 or https; 0 means every port`},
		{"db 0,1", `PORT "0,1" has 0, which means every port: write it alone`},
		{"db 65536", `PORT "65536" is neither a number from 0 to 65535 nor a known service name; write 5432, 5432,6432, 5432-5440 or https; 0 means every port`},
		{"db 00", `PORT "00" is neither a number from 0 to 65535 nor a known service name; write 5432, 5432,6432, 5432-5440 or https; 0 means every port`},
		{"db 0x50", `PORT is missing: the last word "0x50" is neither a number from 0 to 65535 nor a known service name; 0 means every port`},
		{"db 5432/tcp", `PORT is missing: the last word "5432/tcp" is neither a number from 0 to 65535 nor a known service name; 0 means every port`},
		{"db 5432:5440", `HOST "5432" is a number: write several ports as one word after the hosts, such as 5432,6432`},
		{"db '*'", `PORT "*" is not a port: write 0 for every port`},
		{"db any", `PORT "any" is not a port: write 0 for every port`},
		{"10.0.0.5 htpps", `PORT is missing: the last word "htpps" is neither a number from 0 to 65535 nor a known service name; 0 means every port`},
		{"10.0.0.5 10.0.0.6", `PORT is missing: the last word "10.0.0.6" is neither a number from 0 to 65535 nor a known service name; 0 means every port`},
		{"10.0.0.5", `PORT is missing after HOST "10.0.0.5": write 10.0.0.5 5432; 0 means every port`},
		{"5432", "PORT 5432 alone would select the connections of every application: write HOST... 5432, or --port=5432 with --pid, --command, --uid or --cgroup"},
		{":5432", "PORT 5432 alone would select the connections of every application: write HOST... 5432, or --port=5432 with --pid, --command, --uid or --cgroup"},
		{"--port=5432", "PORT 5432 alone would select the connections of every application: write HOST... 5432, or --port=5432 with --pid, --command, --uid or --cgroup"},
		{"--port=5432 10.0.0.5 db", "hangup 10.0.0.5 port 5432"},
		{"--port=5432 --port=6432-6440 db", "hangup 10.0.0.5 port 5432,6432-6440"},
		{"--port=5432 --port=0 db", `--port "0" means every port: write it alone`},
		{"--port= db", `--port "" is neither a number from 0 to 65535 nor a known service name; write 5432, 5432,6432, 5432-5440 or https; 0 means every port`},
		{"--port=5432 db 6432", `PORT "6432" and --port are both given: write one of them`},
		{"", "usage: tcphup HOST... PORT; 0 means every port"},
		// host and port in one word, and URLs
		{"10.0.0.5:5432", "hangup 10.0.0.5 port 5432"},
		{"db.internal:5432,6432", "hangup 10.0.0.5 port 5432,6432"},
		{"db:smtp", "hangup 10.0.0.5 port 25"},
		{"[::1]:80", "hangup ::1 port 80"},
		{"[2001:db8::5] 443", "hangup 2001:db8::5 port 443"},
		{"2001:db8::5 443", "hangup 2001:db8::5 port 443"},
		{"10.0.0.5:0", "hangup 10.0.0.5 port 0"},
		{"db:5432 10.0.0.9:5432", "hangup 10.0.0.5 10.0.0.9 port 5432"},
		{"https://db.internal:8443/x?y=a@b", "hangup 10.0.0.5 port 8443"},
		{"https://db.internal/x", "hangup 10.0.0.5 port 443"},
		{"postgres://app:secret@db.internal/app", "hangup 10.0.0.5 port 5432"},
		{"jdbc:postgresql://db.internal:6432/app", "hangup 10.0.0.5 port 6432"},
		{"redis+tls://[::1]:6380", "hangup ::1 port 6380"},
		{"10.0.0.5:", `HOST "10.0.0.5:" has no port after the colon: write 10.0.0.5:5432, or 10.0.0.5:0 for every port`},
		{"10.0.0.5:*", `port of HOST "10.0.0.5" "*" is not a port: write 0 for every port`},
		{"10.0.0.5/5432", `HOST "10.0.0.5/5432" is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal; PORT is another word: 10.0.0.5 5432`},
		{"10.0.0.5/5432 0", `HOST "10.0.0.5/5432" is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal`},
		{"10.0.0.5.5432", `HOST "10.0.0.5.5432" is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal; PORT is another word: 10.0.0.5 5432`},
		{"2001:db8::5:443", `PORT is missing after HOST "2001:db8::5:443": write it as the last word, or one such as [2001:db8::5]:5432; 0 means every port`},
		{"1:2:3:4:5:6:7:8:443", `HOST "1:2:3:4:5:6:7:8:443" is not an IPv6 address: with a port, write one such as [2001:db8::5]:5432`},
		{"fe80::1%eth0 80", `HOST "fe80::1%eth0" has a zone: write fe80::1, which means this address on every interface`},
		{"[fe80::1%eth0]:80", `HOST "[fe80::1%eth0]" has a zone: write fe80::1, which means this address on every interface`},
		{"db:5432 db.internal:6432", `HOST "db.internal" has port 6432, and 5432 is given as well: write one command for each port`},
		{"db:5432 10.0.0.9", `HOST "db" has port 5432, and HOST "10.0.0.9" has none: write the port once, as the last word`},
		{"db:5432 6432", `HOST "db" has port 5432, and 6432 is given as well: write one command for each port`},
		{"postgres://app:secret@db.internal:6432,10.0.0.9:6432/app", `HOST "db.internal:6432,10.0.0.9:6432" has a comma: write several hosts as several words`},
		{"postgres:///app", `HOST of the "postgres" URL is empty: write HOST... PORT`},
		{"unknown://db.internal/x", `PORT is missing after HOST "db.internal": write db.internal 5432; 0 means every port`},
		// quotes and substitutions
		{"'10.0.0.5 5432'", `argument "10.0.0.5 5432" has a space: write HOST and PORT as two words, without quotes`},
		{"'' 5432", "argument 1 is empty: a command in $(...) may have printed nothing; write HOST... PORT"},
		{"10.0.0.5 ''", "argument 2 is empty: a command in $(...) may have printed nothing; write HOST... PORT"},
		{"'10.0.0.5\n10.0.0.6' 5432", "argument \"10.0.0.5\\n10.0.0.6\" has a space: write HOST and PORT as two words, without quotes"},
		{"--except='' 10.0.0.5 0", `--except "" is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal`},
		// every host
		{"0.0.0.0 0", `HOST "0.0.0.0" is the unspecified address, not a TCP destination: write a prefix to match many addresses`},
		{":: 0", `HOST "::" is the unspecified address, not a TCP destination: write a prefix to match many addresses`},
		{"0.0.0.0/0 5432", "HOST 0.0.0.0/0 is a prefix shorter than /8: add --yes to allow it"},
		{"0.0.0.0/0 5432 --yes", "hangup 0.0.0.0/0 port 5432"},
		{"'*' 80", `HOST "*" is not a destination: for every address, write 0.0.0.0/0 ::/0`},
		{"any 80", `HOST "any" is not a destination: for every address, write 0.0.0.0/0 ::/0`},
		{"all 0", `HOST "all" is not a destination: for every address, write 0.0.0.0/0 ::/0`},
		{"'*:5432'", `HOST "*" is not a destination: for every address, write 0.0.0.0/0 ::/0`},
		{"0 5432", `HOST "0" is a number: write several ports as one word after the hosts, such as 5432,6432`},
		// nc and curl
		{"-vz 10.0.0.5 5432", "unknown flag -vz; see tcphup hangup --help"},
		{"10.0.0.5 5432 -n", "unknown flag -n; see tcphup hangup --help"},
		{"-w 3 10.0.0.5 5432", "unknown flag -w; see tcphup hangup --help"},
		{"10.0.0.5 20-30", "hangup 10.0.0.5 port 20-30"},
		{"https://10.0.0.5:8443/health -k", "unknown flag -k; see tcphup hangup --help"},
		// ss
		{"dst 10.0.0.5", `HOST "dst" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"-K dst 10.0.0.5", "unknown flag -K; see tcphup hangup --help"},
		{"-K dst 10.0.0.5 dport = 5432", "unknown flag -K; see tcphup hangup --help"},
		{"dst 10.0.0.5 5432", `HOST "dst" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"dst 10.0.0.5:5432", `HOST "dst" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"state established", `HOST "state" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"'( dport = :5432 or sport = :5432 )'", `argument "( dport = :5432 or sport = :5432 )" has a space: write HOST and PORT as two words, without quotes`},
		{"dst [2001:db8::5]:5432", `HOST "dst" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		// lsof
		{"-i :5432", "unknown flag -i; see tcphup hangup --help"},
		{"-i tcp:5432", "unknown flag -i; see tcphup hangup --help"},
		{"tcp:5432", `HOST "tcp" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"-iTCP@10.0.0.5:5432", "unknown flag -iTCP@10.0.0.5:5432; see tcphup hangup --help"},
		{"TCP@10.0.0.5:5432", `HOST "TCP@10.0.0.5" has a user: write "10.0.0.5"`},
		{"@10.0.0.5:5432", `HOST "@10.0.0.5" has a user: write "10.0.0.5"`},
		{"-p 12", "unknown flag -p; see tcphup hangup --help"},
		{"-u postgres", "unknown flag -u; see tcphup hangup --help"},
		// conntrack, tcpkill, tcpdump, ssh and rsync
		{"-D -d 10.0.0.5 -p tcp --dport 5432", "unknown flag -D; see tcphup hangup --help"},
		{"-d 10.0.0.5 -p tcp --dport 5432", "unknown flag -d; see tcphup hangup --help"},
		{"host 10.0.0.5 and port 5432", `HOST "host" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"-i eth0 port 5432", "unknown flag -i; see tcphup hangup --help"},
		{"port 5432", `HOST "port" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"tcp port 5432", `HOST "tcp" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"root@10.0.0.5 22", `HOST "root@10.0.0.5" has a user: write "10.0.0.5"`},
		{"db:/var/lib", `port of HOST "db" "/var/lib" is neither a number from 0 to 65535 nor a known service name; write 5432, 5432,6432, 5432-5440 or https; 0 means every port`},
		// several hosts
		{"10.0.0.5 10.0.0.6 5432", "hangup 10.0.0.5 10.0.0.6 port 5432"},
		{"10.0.0.5,10.0.0.6 5432", `HOST "10.0.0.5,10.0.0.6" has a comma: write several hosts as several words`},
		{"10.0.0.5-10.0.0.9 5432", `HOST "10.0.0.5-10.0.0.9" is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal`},
		{"'10.0.0.*' 5432", `HOST "10.0.0.*" is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal`},
		{"unknown.invalid 5432", `HOST "unknown.invalid" does not resolve: no such host`},
		// owners
		{"--pid 12", "hangup everywhere port 0 --pid=12"},
		{"--pid 12 :5432", "hangup everywhere port 5432 --pid=12"},
		{"--pid 12 --port 5432", "hangup everywhere port 5432 --pid=12"},
		{"--pid=12,34 10.0.0.5 5432", "hangup 10.0.0.5 port 5432 --pid=12,34"},
		{"'--pid=12\n34' 10.0.0.5 5432", "hangup 10.0.0.5 port 5432 --pid=12,34"},
		{"--pid 12 34", "argument 34 may be a PORT or one more process: write --port=34, or several processes as one word, such as --pid=12,34"},
		{"--pid 12 34 10.0.0.5 5432", `HOST "34" is a number: write several ports as one word after the hosts, such as 5432,6432`},
		{"--pid= 10.0.0.5 5432", "--pid: the value is empty: a command in $(...) may have printed nothing; see tcphup hangup --help"},
		{"--pid java", `--pid: "java" is not a process id from 1 to 4194304; see tcphup hangup --help`},
		{"--pid 0", `--pid: "0" is not a process id from 1 to 4194304; see tcphup hangup --help`},
		{"--pid 12 10.0.0.5", `PORT is missing after HOST "10.0.0.5": write 10.0.0.5 5432; 0 means every port`},
		{"--pid 12 0.0.0.0/0 0", "HOST 0.0.0.0/0 is a prefix shorter than /8: add --yes to allow it"},
		{"--command java,psql", "hangup everywhere port 0 --command=java,psql"},
		{"'--command=tokio worker'", "hangup everywhere port 0 --command='tokio worker'"},
		{`'--command=a\,b,java'`, `hangup everywhere port 0 --command='a\,b,java'`},
		{`'--command=a,b\,c' --command=d`, `hangup everywhere port 0 --command='a,b\,c,d'`},
		{"--command /usr/bin/java", `--command: "/usr/bin/java" is a path: write the name in /proc/PID/comm, such as java; see tcphup hangup --help`},
		{"--command postgres-exporter", `--command: "postgres-exporter" is not a command name of 1 to 15 bytes, as in /proc/PID/comm: write its beginning, "postgres-export"; see tcphup hangup --help`},
		{"--command=", "--command: the value is empty: a command in $(...) may have printed nothing; see tcphup hangup --help"},
		{"--uid root,1000", "hangup everywhere port 0 --uid=0,1000"},
		{"--uid no-such-user", `--uid: "no-such-user" is neither the id nor the name of a user of this host; see tcphup hangup --help`},
		{"--uid -1", "--uid needs a value; see tcphup hangup --help"},
		{"--uid=", "--uid: the value is empty: a command in $(...) may have printed nothing; see tcphup hangup --help"},
		{"--cgroup /system.slice/app.service/", "hangup everywhere port 0 --cgroup=/system.slice/app.service"},
		{"--cgroup /", `--cgroup: "/" has every process: write the path of a cgroup, such as /system.slice/app.service; see tcphup hangup --help`},
		{"--cgroup=", "--cgroup: the value is empty: a command in $(...) may have printed nothing; see tcphup hangup --help"},
		{"--cgroup system.slice", `--cgroup: "system.slice" is not the path of a cgroup as in /proc/PID/cgroup, such as /system.slice/app.service; see tcphup hangup --help`},
		{"--cgroup /sys/fs/cgroup/system.slice", `--cgroup: "/sys/fs/cgroup/system.slice" is a directory: write the path as in /proc/PID/cgroup, such as /system.slice/app.service; see tcphup hangup --help`},
		// other filters
		{"10.0.0.5 0 --source 10.0.0.1 --source 10.1.0.0/16 --state ESTABLISHED,close-wait,FIN-WAIT-1 --min-idle 30s", "hangup 10.0.0.5 port 0 --source=10.0.0.1 --source=10.1.0.0/16 --state=established,fin_wait1,close_wait --min-idle=30s"},
		{"--source 10.0.0.1", "usage: tcphup HOST... PORT; 0 means every port"},
		{"--source db 10.0.0.5 0", `--source: "db" is not an address or prefix: write one such as 10.0.0.5, 10.20.0.0/16 or 2001:db8::5; see tcphup hangup --help`},
		{"--source= 10.0.0.5 0", `--source: "" is not an address or prefix: write one such as 10.0.0.5, 10.20.0.0/16 or 2001:db8::5; see tcphup hangup --help`},
		{"--state time-wait 10.0.0.5 0", `--state: "time-wait" is not one of established, syn_sent, syn_recv, fin_wait1, fin_wait2, close_wait, last_ack, closing; see tcphup hangup --help`},
		{"--state= 10.0.0.5 0", "--state: the value is empty: a command in $(...) may have printed nothing; see tcphup hangup --help"},
		{"--state established :5432", "PORT 5432 alone would select the connections of every application: write HOST... 5432, or --port=5432 with --pid, --command, --uid or --cgroup"},
		{"--min-idle 30 10.0.0.5 0", `--min-idle: "30" is not a duration of at least 0s, such as 500ms, 3s or 5m; see tcphup hangup --help`},
		{"--direction inbound 10.0.0.5 80", "hangup 10.0.0.5 port 80 inbound"},
		// list
		{"list", "list everywhere port 0"},
		{"list 5432", "list everywhere port 5432"},
		{"list 0", "list everywhere port 0"},
		{"list 5432-5440", "list everywhere port 5432-5440"},
		{"list :5432", "list everywhere port 5432"},
		{"list --port=5432", "list everywhere port 5432"},
		{"list :https", "list everywhere port 443"},
		{"list https", `argument "https" may be a HOST or the name of a service: write https 0, or :https`},
		{"list https 0", "list 10.0.0.9 port 0"},
		{"list db https", "list 10.0.0.5 port 443"},
		{"list db localhost", "list 10.0.0.5 127.0.0.1 ::1 port 0"},
		{"list db localhost 5432", "list 10.0.0.5 127.0.0.1 ::1 port 5432"},
		{"list 10.0.0.5", "list 10.0.0.5 port 0"},
		{"list 10.0.0.5:5432", "list 10.0.0.5 port 5432"},
		{"list 10.0.0.0/24", "list 10.0.0.0/24 port 0"},
		{"list 0.0.0.0/0", "list 0.0.0.0/0 port 0"},
		{"list https://db.internal/x", "list 10.0.0.5 port 443"},
		{"list -w 3 10.0.0.5 5432", `HOST "3" is a number: write several ports as one word after the hosts, such as 5432,6432`},
		{"list dst 10.0.0.5", `HOST "dst" is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432`},
		{"list 10.0.0.5 0x50", `HOST "0x50" is not an address, a prefix or a name: write one such as 10.20.0.0/16, 2001:db8::5 or db.internal`},
		{"list ''", "argument 1 is empty: a command in $(...) may have printed nothing; write HOST... PORT"},
		{"list '*'", `HOST "*" is not a destination: for every address, write 0.0.0.0/0 ::/0`},
		{"list --pid 12 --state close-wait db", "list 10.0.0.5 port 0 --state=close_wait --pid=12"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			if got := describe(t, words(tt.line)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	if n := len(tests); n < 60 {
		t.Errorf("%d lines", n)
	}
}
