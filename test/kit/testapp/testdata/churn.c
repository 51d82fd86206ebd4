// churn TARGET BYSTANDER PORT SECONDS
//
// An application whose sockets change their peers, processes and descriptors all the time.
// It opens connections to two addresses and prints a line for each one that ends without
// its doing: "end COOKIE LOCAL REMOTE CALL ERRNO". The last line has the totals.
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct connection {
	int fd; // -1 if there is none
	int peer;
	int over; // its end was reported
	uint64_t cookie;
	struct sockaddr_in local;
};

enum { TARGET, BYSTANDER };
static struct sockaddr_in peers[2];

// Shared by all processes.
static struct {
	long lives, changed, passed, forked, moved;
} *totals;

static void count(long *total)
{
	__atomic_fetch_add(total, 1, __ATOMIC_RELAXED);
}

// Reports the end of a connection in one write, so that lines of processes do not mix.
static void ended(const struct connection *c, const char *call, int err)
{
	char local[INET_ADDRSTRLEN], remote[INET_ADDRSTRLEN];
	inet_ntop(AF_INET, &c->local.sin_addr, local, sizeof local);
	inet_ntop(AF_INET, &peers[c->peer].sin_addr, remote, sizeof remote);
	dprintf(1, "end %" PRIu64 " %s:%d %s:%d %s %s\n", c->cookie, local, ntohs(c->local.sin_port), remote,
		ntohs(peers[c->peer].sin_port), call, err ? strerrorname_np(err) : "EOF");
}

// Closes a connection with an RST: without TIME_WAIT its port is free immediately.
static void drop(struct connection *c)
{
	struct linger reset = {.l_onoff = 1};
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	close(c->fd);
	c->fd = -1;
}

// Connects the socket c->fd.
static void dial(struct connection *c, int peer)
{
	socklen_t cookie = sizeof c->cookie, local = sizeof c->local;
	c->peer = peer;
	c->over = 0;
	int err = connect(c->fd, (struct sockaddr *)&peers[peer], sizeof peers[peer]) < 0 ? errno : 0;
	getsockopt(c->fd, SOL_SOCKET, SO_COOKIE, &c->cookie, &cookie);
	getsockname(c->fd, (struct sockaddr *)&c->local, &local);
	if (err) {
		ended(c, "connect", err);
		drop(c);
		return;
	}
	count(&totals->lives);
}

static void open_connection(struct connection *c, int peer)
{
	struct timeval timeout = {.tv_sec = 30}; // far above the response time
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
	dial(c, peer);
}

// Connects the same socket to the other peer.
static void change(struct connection *c)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	connect(c->fd, &none, sizeof none);
	count(&totals->changed);
	dial(c, !c->peer);
}

// Returns whether a connection is open, and reports its end once. The bystander echoes.
static int is_open(struct connection *c)
{
	if (c->over)
		return 0;
	char byte = 'x';
	ssize_t n = 1;
	const char *call = "send";
	if (c->peer == BYSTANDER)
		n = send(c->fd, &byte, 1, 0);
	if (n == 1) {
		call = "recv";
		n = recv(c->fd, &byte, 1, c->peer == TARGET ? MSG_DONTWAIT : 0);
	}
	if (c->peer == BYSTANDER ? n == 1 : n < 0 && errno == EAGAIN)
		return 1;
	ended(c, call, n < 0 ? errno : 0);
	c->over = 1;
	return 0;
}

// Passes a connection to another process (SCM_RIGHTS) and closes the own descriptor.
static void give(int channel, struct connection *c)
{
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct iovec data = {c, sizeof *c};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
	memcpy(CMSG_DATA(&control.header), &c->fd, sizeof(int));
	if (c->fd >= 0) {
		message.msg_control = control.buffer;
		message.msg_controllen = sizeof control.buffer;
	}
	if (sendmsg(channel, &message, 0) < 0)
		_exit(1);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

// Receives a connection. It returns 0 at EOF.
static int take(int channel, struct connection *c)
{
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control;
	struct iovec data = {c, sizeof *c};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.buffer, .msg_controllen = sizeof control.buffer};
	if (recvmsg(channel, &message, 0) <= 0)
		return 0;
	if (c->fd >= 0)
		memcpy(&c->fd, CMSG_DATA(&control.header), sizeof(int));
	return 1;
}

// Keeps connections of the main process for a while and returns an older one for each.
static void keep(int channel)
{
	enum { KEPT = 8 };
	struct connection kept[KEPT], c;
	for (int i = 0; i < KEPT; i++)
		kept[i].fd = -1;
	while (take(channel, &c)) {
		struct connection *old = &kept[rand() % KEPT];
		if (old->fd >= 0 && !is_open(old))
			drop(old);
		give(channel, old);
		*old = c;
	}
	_exit(0);
}

// Shares a connection with a child. The parent or the child keeps it.
static void share(struct connection *c)
{
	static int children;
	const int most = 4;
	while (children > 0 && waitpid(-1, NULL, children < most ? WNOHANG : 0) > 0)
		children--;
	int parent_keeps = rand() % 2;
	pid_t pid = fork();
	if (pid < 0)
		return;
	if (pid == 0) {
		srand(getpid());
		usleep(rand() % 20000);
		for (int i = 0; !parent_keeps && i < 4 && c->fd >= 0; i++) {
			is_open(c);
			change(c);
			usleep(rand() % 5000);
		}
		_exit(0);
	}
	children++;
	count(&totals->forked);
	if (!parent_keeps) {
		close(c->fd);
		c->fd = -1;
	}
}

// Moves connections between descriptors: one over another, or two that change places.
static void move(struct connection *a, struct connection *b)
{
	if (b->fd >= 0 && a != b) {
		int third = dup(a->fd), fd = a->fd;
		dup2(b->fd, a->fd);
		dup2(third, b->fd);
		close(third);
		struct connection old = *a;
		*a = *b, a->fd = fd;
		fd = b->fd;
		*b = old, b->fd = fd;
	} else {
		struct connection next;
		open_connection(&next, rand() % 2);
		if (next.fd < 0)
			return;
		dup2(next.fd, a->fd);
		close(next.fd);
		next.fd = a->fd;
		*a = next;
	}
	count(&totals->moved);
}

int main(int argc, char **argv)
{
	enum { SLOTS = 16 };
	struct connection slots[SLOTS];
	int channel[2];
	if (argc != 5)
		return 2;
	for (int i = 0; i < 2; i++) {
		peers[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
		inet_pton(AF_INET, argv[1 + i], &peers[i].sin_addr);
	}
	totals = mmap(NULL, sizeof *totals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (totals == MAP_FAILED || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, channel) < 0)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	srand(getpid());
	time_t end = time(NULL) + atoi(argv[4]);
	pid_t keeper = fork();
	if (keeper == 0) {
		close(channel[0]);
		keep(channel[1]);
	}
	close(channel[1]);
	for (int i = 0; i < SLOTS; i++)
		slots[i].fd = -1;
	while (time(NULL) < end) {
		struct connection *c = &slots[rand() % SLOTS];
		if (c->fd >= 0 && !is_open(c) && rand() % 2)
			drop(c);
		else if (c->fd < 0)
			open_connection(c, rand() % 2);
		else switch (rand() % 16) {
		case 0 ... 2:
			drop(c);
			open_connection(c, rand() % 2);
			break;
		case 3 ... 9:
			change(c);
			break;
		case 10 ... 11:
			move(c, &slots[rand() % SLOTS]);
			break;
		case 12 ... 14:
			give(channel[0], c);
			count(&totals->passed);
			if (!take(channel[0], c))
				return 1;
			break;
		default:
			share(c);
		}
		usleep(1000); // bounds the load
	}
	close(channel[0]);
	while (wait(NULL) > 0)
		;
	printf("totals %ld %ld %ld %ld %ld\n", totals->lives, totals->changed, totals->passed, totals->forked, totals->moved);
	return 0;
}
