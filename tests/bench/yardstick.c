/* The yardstick of the bench: the bare seed of the idea as a C backend, and nothing else.
 * SEQPACKET in, name check, lock by temporary file and link(2), open, SCM_RIGHTS out.
 * The lock is removed when the client says so ("-"), outside of what is timed.
 * Usage: yardstick FD NAME DEVICE LOCKDIR */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int lock_port(int dir, const char *lock)
{
	char text[12];
	int length = snprintf(text, sizeof text, "%10d\n", getpid());
	int file = openat(dir, ".yardstick", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (file < 0)
		return -1;
	int failed = write(file, text, length) != length;
	close(file);
	failed = failed || linkat(dir, ".yardstick", dir, lock, 0) != 0;
	unlinkat(dir, ".yardstick", 0);
	return failed ? -1 : 0;
}

static void answer(int sock, int port)
{
	char status = port < 0 ? 1 : 0;
	union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = { 0 };
	struct iovec part = { &status, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	if (port >= 0) {
		message.msg_control = control.room;
		message.msg_controllen = sizeof control.room;
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(head), &port, sizeof port);
	}
	sendmsg(sock, &message, MSG_NOSIGNAL);
	if (port >= 0)
		close(port);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	int sock = atoi(argv[1]), dir = open(argv[4], O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	char name[65], lock[80];
	snprintf(lock, sizeof lock, "LCK..%s", argv[2]);
	for (ssize_t size; (size = recv(sock, name, sizeof name - 1, 0)) > 0;) {
		name[size] = 0;
		if (!strcmp(name, "-")) {
			unlinkat(dir, lock, 0);
			answer(sock, -1);
			continue;
		}
		int port = -1;
		if (!strcmp(name, argv[2]) && lock_port(dir, lock) == 0)
			port = open(argv[3], O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
		answer(sock, port);
	}
	return 0;
}
