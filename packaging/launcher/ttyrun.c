/*
 * ttyrun: the setuid-root door to a broker of one's own; the kernel ignores the bit on scripts.
 *
 * It makes the process one that no caller can have prepared, keeps what it takes away from
 * the program (environment, limits, signals) in a sealed memfd, and becomes an isolated
 * Python on code that only root can change.  Whose request it is stays in the real uid,
 * real gid and groups, which nothing here touches.  It reads no argument.
 *
 * PYTHON, STDLIB, CODE and (in a distribution's package) LIBRARY are absolute paths, compiled
 * in by the Makefile.
 * What execve(2) does for set-user-ID files is not done again: with no_new_privs, a foreign
 * tracer, a nosuid mount or a user namespace the euid stays the caller's; personality(2)
 * loses what weakens address randomisation; none but root can trace or read the process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL /* linux/memfd.h, Linux 6.3; vm.memfd_noexec=2 demands it */
#define MFD_NOEXEC_SEAL 8U
#endif
#define N_LIMITS (sizeof limits / sizeof *limits)
#define DIE(status, ...) (dprintf(2, "ttyrun: " __VA_ARGS__), dprintf(2, "\n"), _exit(status))

/*
 * The soft limits that Python and the broker need; hard ones only go up: both can be put back
 * without privilege.  NICE, RTPRIO, SIGPENDING stay the caller's: he may renice and signal a
 * process of his real uid, raised they would be rights he has not got.  NPROC spares root.
 */
static const struct { int resource; const char *name; rlim_t soft; } limits[] = {
#define LIMIT(name) RLIMIT_ ## name, "RLIMIT_" #name
	{ LIMIT(CPU), RLIM_INFINITY }, { LIMIT(FSIZE), RLIM_INFINITY },
	{ LIMIT(DATA), RLIM_INFINITY }, { LIMIT(AS), RLIM_INFINITY },
	{ LIMIT(STACK), 8 << 20 }, { LIMIT(NOFILE), 1024 },
	{ LIMIT(CORE), 0 }, /* guard: ttyrun-no-core */
};

/* What the memfd, descriptor 3, begins with (ttyrun_main.py reads it); /proc/PID/environ follows */
static struct {
	long long limit[N_LIMITS][3];	/* resource, soft, hard; -1 is RLIM_INFINITY */
	long long timer[3][4];		/* REAL, VIRTUAL, PROF: value, interval (s, us each) */
	unsigned long long blocked, ignored;	/* bit N-1 is signal N */
	long long policy, nice, slack, umask;
} kept;

/* The one rule, also an nftw(3) callback: root's alone, and no link that leads elsewhere. */
static int
check(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)ftw;
	if (type == FTW_NS || type == FTW_DNR)
		DIE(1, "%s: cannot be read: install ttyrun again", path);
	if (S_ISLNK(st->st_mode)) /* guard: ttyrun-no-link */
		DIE(1, "%s: is a symbolic link: build ttyrun with the path it leads to", path);
	/* guard: ttyrun-writable-by-others */
	if (st->st_uid != 0 || st->st_mode & (S_IWGRP | S_IWOTH))
		DIE(1, "%s: others than root can change it (owner %u, mode %o): "
		    "chown root and chmod go-w it", path, st->st_uid, st->st_mode & 07777);
	return 0;
}

/* From / downwards: once a directory is root's alone nobody else can change what is in it. */
static void
check_path(const char *path)
{
	char part[PATH_MAX];
	struct stat st;

	if (path[0] != '/') /* guard: ttyrun-absolute-path */
		DIE(1, "%s: not an absolute path: build ttyrun again", path);
	for (size_t i = 0; i == 0 || path[i - 1] != '\0'; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		snprintf(part, sizeof part, "%.*s", i ? (int)i : 1, path);
		if (lstat(part, &st) == -1)
			DIE(1, "%s: %s: install ttyrun again", part, strerror(errno));
		check(part, &st, FTW_F, NULL);
	}
}

static void
reset_limits(void)
{
	for (size_t i = 0; i < N_LIMITS; i++) {
		struct rlimit limit;
		int resource = limits[i].resource;
		if (getrlimit(resource, &limit) == -1)
			DIE(1, "getrlimit(2) %d: %s", resource, strerror(errno));
		memcpy(kept.limit[i], (long long[]){ resource, (long long)limit.rlim_cur,
		    (long long)limit.rlim_max }, sizeof kept.limit[i]);
		limit.rlim_cur = limits[i].soft;
		if (limit.rlim_max < limit.rlim_cur)
			limit.rlim_max = limit.rlim_cur;
		if (setrlimit(resource, &limit) == -1)
			DIE(1, "the hard limit %s (setrlimit(2)) is too low and cannot be raised: %s: "
			    "start ttyrun with a higher one", limits[i].name, strerror(errno));
	}
}

static void
reset_signals(void)
{
	struct sigaction action;
	sigset_t mask;

	for (int i = ITIMER_REAL; i <= ITIMER_PROF; i++) {
		struct itimerval old = { 0 };
		setitimer(i, &(struct itimerval){ 0 }, &old);
		memcpy(kept.timer[i], (long long[]){ old.it_value.tv_sec, old.it_value.tv_usec,
		    old.it_interval.tv_sec, old.it_interval.tv_usec }, sizeof kept.timer[i]);
	}
	sigprocmask(SIG_SETMASK, NULL, &mask);
	for (int s = 1; s <= 64; s++) {
		if (sigismember(&mask, s) == 1)
			kept.blocked |= 1ULL << (s - 1);
		if (sigaction(s, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
			kept.ignored |= 1ULL << (s - 1);
		signal(s, SIG_IGN); /* also drops one that is pending */
		signal(s, SIG_DFL); /* not 32 and 33, which are the C library's own: nptl(7) */
	}
	sigemptyset(&mask);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	/* guard: ttyrun-parent-death-signal */
	prctl(PR_SET_PDEATHSIG, 0); /* execve(2) clears it, but not for a caller who is root */
}

/* Only what holds the broker back: a raised priority could not be had again without privilege. */
static void
reset_scheduling(void)
{
	int policy = sched_getscheduler(0);

	kept.policy = policy;
	policy &= ~SCHED_RESET_ON_FORK;
	if (policy == SCHED_BATCH || policy == SCHED_IDLE)
		sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){ 0 });
	kept.nice = getpriority(PRIO_PROCESS, 0);
	if (kept.nice > 0)
		setpriority(PRIO_PROCESS, 0, 0);
	/* Inherited too: a slack of hours, and no timeout of the broker would ever come. */
	kept.slack = syscall(SYS_prctl, PR_GET_TIMERSLACK);
	prctl(PR_SET_TIMERSLACK, 50000UL);
}

/* The memfd must be descriptor 3.  libc takes LD_*, TMPDIR and more out of environ(7) of a
 * set-user-ID program; the program may have them all, so it gets the kernel's copy. */
static int
keep(void)
{
	char buffer[4096];
	ssize_t n;
	int env, fd = memfd_create("ttyrun", MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd == -1 && errno == EINVAL)
		fd = memfd_create("ttyrun", MFD_ALLOW_SEALING);
	env = open("/proc/self/environ", O_RDONLY | O_CLOEXEC);
	if (fd != 3 || env == -1 || write(fd, &kept, sizeof kept) != (ssize_t)sizeof kept)
		return -1;
	while ((n = read(env, buffer, sizeof buffer)) > 0)
		if (write(fd, buffer, (size_t)n) != n)
			return -1;
	return n ? -1 : fcntl(fd, F_ADD_SEALS,
	    /* guard: ttyrun-seal-what-is-kept */
	    F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE);
}

int
main(int argc, char **argv)
{
	char *environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", NULL };
	/* guard: ttyrun-isolated-python */
	char *python[] = { PYTHON, "-ISB", "-Xutf8", CODE "/ttyrun_main.py" };
	const size_t n = sizeof python / sizeof *python;
	char **args;

	/* Before anything is opened, or a file of ours becomes somebody's standard error. */
	for (int fd = 0; fd <= 2; fd++) /* guard: ttyrun-standard-descriptors */
		if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", fd ? O_WRONLY : O_RDONLY) != fd)
			_exit(1);
	if (argc < 1 || argv[0] == NULL || argv[0][0] == '\0') /* guard: ttyrun-has-a-name */
		DIE(2, "started without a name (argv[0]): start it as ttyrun PORT... -- PROGRAM");
	if (geteuid() != 0) /* guard: ttyrun-is-root */
		DIE(1, "not running as root: ttyrun needs owner root and mode 4755; "
		    "`ttybroker run` needs neither where a ttybrokerd runs");
	closefrom(3); /* guard: ttyrun-close-descriptors */
	reset_limits(); /* guard: ttyrun-reset-limits */
	reset_signals(); /* guard: ttyrun-reset-signals */
	reset_scheduling(); /* guard: ttyrun-reset-scheduling */
	kept.umask = umask(022); /* guard: ttyrun-umask */
	check_path(PYTHON); /* guard: ttyrun-trusted-python */
	/* guard: ttyrun-trusted-library */
	check_path(STDLIB); /* its files come from where libc comes from */
#ifdef LIBRARY
	check_path(LIBRARY); /* likewise */
#endif
	/* guard: ttyrun-trusted-code-path */
	check_path(CODE);   /* its files were copied here, maybe with a stranger's owner and mode */
	if (nftw(CODE, check, 16, FTW_PHYS) == -1) /* guard: ttyrun-trusted-code */
		DIE(1, "%s: %s: install ttyrun again", CODE, strerror(errno));
	if (keep() == -1) /* guard: ttyrun-needs-proc */
		DIE(1, "cannot keep the environment: %s: is /proc mounted?", strerror(errno));

	/* Python looks at nothing behind the script's name, so the caller's arguments come last. */
	if ((args = calloc(n + (size_t)argc, sizeof *args)) == NULL)
		DIE(1, "%s", strerror(errno));
	memcpy(args, python, sizeof python);
	memcpy(args + n, argv + 1, (size_t)argc * sizeof *args); /* with its NULL */
	execve(PYTHON, args, environment); /* guard: ttyrun-own-environment */
	DIE(1, "%s: %s", PYTHON, strerror(errno));
}
