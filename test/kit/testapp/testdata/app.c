// A test application. Each line of standard input is a command with one line of output.
// Commands open connections and block in different system calls. SIGPIPE has its default
// disposition until the command "ignore".
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char *name(int err)
{
	return err ? strerrorname_np(err) : "ok";
}

static int open_connection(const char *host, const char *port, int protocol)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
	struct addrinfo *info;
	if (getaddrinfo(host, port, &hints, &info) != 0) {
		errno = EINVAL;
		return -1;
	}
	int fd = socket(info->ai_family, SOCK_STREAM, protocol);
	int failed = fd < 0 || connect(fd, info->ai_addr, info->ai_addrlen) < 0;
	freeaddrinfo(info);
	return failed ? -1 : fd;
}

// Opens a connection from a fixed local port.
static int open_bound(const char *host, const char *port, const char *own)
{
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons(atoi(own))};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	inet_pton(AF_INET, host, &to.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
		return -1;
	return fd;
}

static int disconnect(int fd)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	return connect(fd, &none, sizeof none) < 0 ? errno : 0;
}

// Disconnects a socket and reuses it, for a listener or for a connection to a local port.
static int again(int fd, int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int err = disconnect(fd);
	if (err)
		return err;
	if (port == 0)
		return listen(fd, 5) < 0 ? errno : 0;
	return connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ? errno : 0;
}

// Fills the send queue, then blocks in another send.
static int blocked_send(int fd)
{
	static char buffer[65536];
	while (send(fd, buffer, sizeof buffer, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		;
	if (errno != EAGAIN)
		return errno;
	return send(fd, buffer, sizeof buffer, MSG_NOSIGNAL) < 0 ? errno : 0;
}

static int uring_recv(int fd, int *result)
{
	struct io_uring_params params = {0};
	int ring = syscall(SYS_io_uring_setup, 1, &params);
	if (ring < 0)
		return errno;
	size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
	size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	char *sq = mmap(0, sq_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	char *cq = mmap(0, cq_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqe = mmap(0, sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED)
		return errno;
	static char buffer[16];
	*sqe = (struct io_uring_sqe){.opcode = IORING_OP_RECV, .fd = fd, .addr = (unsigned long)buffer, .len = sizeof buffer};
	*(unsigned *)(sq + params.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return errno;
	*result = ((struct io_uring_cqe *)(cq + params.cq_off.cqes))->res;
	close(ring);
	return 0;
}

// Opens a listener, on an ephemeral port without wanted, and prints its port.
static void listen_on(const char *host, const char *wanted)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_PASSIVE};
	struct addrinfo *info;
	struct sockaddr_storage own;
	socklen_t size = sizeof own;
	char port[16] = "";
	int fd = -1, err = EINVAL;
	if (getaddrinfo(host, *wanted ? wanted : "0", &hints, &info) == 0) {
		fd = socket(info->ai_family, SOCK_STREAM, 0);
		err = bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, 4096) < 0 ||
		      getsockname(fd, (struct sockaddr *)&own, &size) < 0 ? errno : 0;
		getnameinfo((struct sockaddr *)&own, size, NULL, 0, port, sizeof port, NI_NUMERICSERV);
		freeaddrinfo(info);
	}
	printf("listen %s %d %s\n", name(err), fd, port);
}

// Opens or accepts n connections and keeps them.
static void many(const char *verb, int n, int listener, const char *host, const char *port)
{
	int done = 0;
	while (done < n) {
		int fd = host ? open_connection(host, port, 0) : accept(listener, NULL, NULL);
		if (fd < 0)
			break;
		done++;
	}
	printf("%s %s %d\n", verb, name(done < n ? errno : 0), done);
}

// Sends a descriptor in a message.
static int send_descriptor(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof fd)] = "", byte = 0;
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	*rights = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
	memcpy(CMSG_DATA(rights), &fd, sizeof fd);
	return sendmsg(socket, &message, 0);
}

// Receives a descriptor in a message.
static int receive_descriptor(int socket)
{
	int fd = -1;
	char control[CMSG_SPACE(sizeof fd)] = "", byte;
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	if (recvmsg(socket, &message, 0) < 0 || CMSG_FIRSTHDR(&message) == NULL)
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

// Puts a descriptor into a message that is never received, and closes it.
static int in_flight(int fd)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0 || send_descriptor(pair[0], fd) < 0 || close(fd) < 0)
		return errno;
	return 0;
}

// Opens a UNIX socket that is bound or connected to a path.
static int open_unix(const char *path, int (*use)(int, const struct sockaddr *, socklen_t))
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	return use(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -1 : fd;
}

static void events(const char *kind, int err, unsigned events)
{
	printf("%s %s%s%s%s%s\n", kind, name(err), events & POLLIN ? " in" : "", events & POLLHUP ? " hup" : "",
	       events & POLLRDHUP ? " rdhup" : "", events & POLLERR ? " err" : "");
}

static void *commands(void *unused);
static FILE *input;

static void command(char *line)
{
	char verb[16] = "", a[128] = "", b[16] = "", c[16] = "", path[108] = "";
	char buffer[64];
	sscanf(line, "%15s %127s %15s %15s", verb, a, b, c);
	sscanf(line, "%*s %*s %107s", path);
	int fd = atoi(a);

	if (strcmp(verb, "connect") == 0) {
		fd = open_connection(a, b, strcmp(c, "mptcp") == 0 ? 262 : 0);
		printf("connect %s %d\n", name(fd < 0 ? errno : 0), fd);
	} else if (strcmp(verb, "bound") == 0) {
		fd = open_bound(a, b, c);
		printf("bound %s %d\n", name(fd < 0 ? errno : 0), fd);
	} else if (strcmp(verb, "disconnect") == 0) {
		printf("disconnect %s\n", name(disconnect(fd)));
	} else if (strcmp(verb, "again") == 0) {
		printf("again %s\n", name(again(fd, atoi(b))));
	} else if (strcmp(verb, "listen") == 0) {
		listen_on(a, b);
	} else if (strcmp(verb, "accept") == 0) {
		many(verb, atoi(b), fd, NULL, NULL);
	} else if (strcmp(verb, "many") == 0) {
		many(verb, atoi(c), -1, a, b);
	} else if (strcmp(verb, "recv") == 0) {
		ssize_t n = recv(fd, buffer, sizeof buffer, 0);
		printf("recv %s %zd\n", name(n < 0 ? errno : 0), n);
	} else if (strcmp(verb, "write") == 0) {
		ssize_t n = write(fd, "x", 1);
		printf("write %s %zd\n", name(n < 0 ? errno : 0), n);
	} else if (strcmp(verb, "send") == 0) {
		printf("send %s\n", name(blocked_send(fd)));
	} else if (strcmp(verb, "poll") == 0) {
		struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
		int n = ppoll(&p, 1, NULL, NULL); // poll(2) is not on every architecture
		events("poll", n < 0 ? errno : 0, p.revents);
	} else if (strcmp(verb, "epoll") == 0) {
		int ep = epoll_create1(0);
		struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP};
		epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
		int n = epoll_pwait(ep, &e, 1, -1, NULL);
		events("epoll", n < 0 ? errno : 0, e.events);
		close(ep);
	} else if (strcmp(verb, "uring") == 0) {
		int result = 0, err = uring_recv(fd, &result);
		printf("uring %s %d\n", name(err), result);
	} else if (strcmp(verb, "ignore") == 0) {
		signal(SIGPIPE, SIG_IGN);
		printf("ignore ok\n");
	} else if (strcmp(verb, "close") == 0) {
		printf("close %s\n", name(close(fd) < 0 ? errno : 0));
	} else if (strcmp(verb, "dup2") == 0) {
		printf("dup2 %s\n", name(dup2(fd, atoi(b)) < 0 ? errno : 0));
	} else if (strcmp(verb, "hoard") == 0) {
		// Opens descriptors of one file until there are that many.
		int files = atoi(a), last = open("/dev/null", O_RDONLY);
		while (last >= 0 && last < files - 1)
			last = dup(last);
		printf("hoard %s\n", name(last < 0 ? errno : 0));
	} else if (strcmp(verb, "sockets") == 0) {
		// Opens sockets until there are that many descriptors.
		int files = atoi(a), last = 0;
		while (last >= 0 && last < files - 1)
			last = socket(AF_INET, SOCK_STREAM, 0);
		printf("sockets %s\n", name(last < 0 ? errno : 0));
	} else if (strcmp(verb, "half") == 0) {
		printf("half %s\n", name(shutdown(fd, SHUT_WR) < 0 ? errno : 0));
	} else if (strcmp(verb, "netns") == 0) {
		int ns = open(a, O_RDONLY);
		printf("netns %s\n", name(ns < 0 || setns(ns, CLONE_NEWNET) < 0 ? errno : 0));
		close(ns);
	} else if (strcmp(verb, "fork") == 0) {
		// Set the disposition before fork, so that the child starts with it.
		int set = a[0] != 0;
		void (*old)(int) = set ? signal(SIGPIPE, strcmp(a, "ignore") == 0 ? SIG_IGN : SIG_DFL) : NULL;
		pid_t pid = fork();
		if (pid > 0 && set)
			signal(SIGPIPE, old);
		if (pid == 0) {
			if (b[0] != 0 && setuid(atoi(b)) < 0)
				_exit(126);
			for (;;)
				pause();
		}
		printf("fork %s %d\n", name(pid < 0 ? errno : 0), pid);
	} else if (strcmp(verb, "spawn") == 0) {
		// Another program inherits every descriptor, and the default disposition.
		pid_t pid = fork();
		if (pid == 0) {
			signal(SIGPIPE, SIG_DFL);
			execlp(a, a, b, NULL);
			_exit(127);
		}
		printf("spawn %s %d\n", name(pid < 0 ? errno : 0), pid);
	} else if (strcmp(verb, "undumpable") == 0) {
		printf("undumpable %s\n", name(prctl(PR_SET_DUMPABLE, 0) < 0 ? errno : 0));
	} else if (strcmp(verb, "rename") == 0) {
		printf("rename %s\n", name(prctl(PR_SET_NAME, a) < 0 ? errno : 0));
	} else if (strcmp(verb, "inflight") == 0) {
		printf("inflight %s\n", name(in_flight(fd)));
	} else if (strcmp(verb, "mailbox") == 0) {
		// Opens a UNIX socket for descriptors of other processes.
		fd = open_unix(a, bind);
		printf("mailbox %s %d\n", name(fd < 0 ? errno : 0), fd);
	} else if (strcmp(verb, "take") == 0) {
		fd = receive_descriptor(fd);
		printf("take %s %d\n", name(fd < 0 ? errno : 0), fd);
	} else if (strcmp(verb, "give") == 0) {
		// The descriptor, which stays open, and the path of a mailbox.
		int mailbox = open_unix(path, connect);
		printf("give %s\n", name(mailbox < 0 || send_descriptor(mailbox, fd) < 0 ? errno : 0));
		close(mailbox);
	} else if (strcmp(verb, "become") == 0) {
		printf("become %s\n", name(setreuid(-1, atoi(a)) < 0 ? errno : 0));
	} else if (strcmp(verb, "thread") == 0) {
		// Another thread executes the next commands, and the first thread ends.
		pthread_t thread;
		printf("thread %s\n", name(pthread_create(&thread, NULL, commands, NULL)));
		pthread_exit(NULL);
	} else {
		printf("unknown %s\n", verb);
	}
}

static void *commands(void *unused)
{
	char line[256];
	while (fgets(line, sizeof line, input) != NULL)
		command(line);
	exit(0);
}

int main(void)
{
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_DFL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	// Input is read from a duplicate, so that a test can place a socket on descriptor 0.
	input = fdopen(dup(0), "r");
	commands(NULL);
}
