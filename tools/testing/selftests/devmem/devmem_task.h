/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tasks that run beside a test, and grips that keep a page of a device from being moved.
 *
 * Each task is a process that shares memory and files with the test, so that it can be
 * killed. Tasks that issue a request tell whether it has returned. A test can so check that
 * one request does not wait for another, without measuring time.
 */
#ifndef _DEVMEM_TASK_H_
#define _DEVMEM_TASK_H_

#include <sched.h>
#include <signal.h>
#include <sys/uio.h>

#include "devmem_world.h"

/**
 * struct task - a process beside the test
 * @pid: the process, or 0
 * @run: what it does
 * @arg: of @run
 * @err: what @run has returned, once @done is set
 * @done: @run has returned
 * @stack: its stack
 */
struct task {
	pid_t pid;
	int (*run)(void *arg);
	void *arg;
	int err;
	bool done;
	unsigned char stack[32 * 1024];
};

static inline int task_main(void *arg)
{
	struct task *t = arg;

	/* The task ends with a test that fails. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	t->err = t->run(t->arg);
	__atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
	return 0;
}

static inline bool task_start(struct task *t, int (*run)(void *), void *arg)
{
	unsigned long top = (unsigned long)t->stack + sizeof(t->stack);

	t->run = run;
	t->arg = arg;
	t->err = 0;
	t->done = false;
	t->pid = clone(task_main, (void *)(top & ~15UL),
		       CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, t);
	if (t->pid < 0)
		t->pid = 0;
	return t->pid;
}

static inline bool task_done(const struct task *t)
{
	return __atomic_load_n(&t->done, __ATOMIC_ACQUIRE);
}

/* Wait for the end of a task. False if it was killed. */
static inline bool task_wait(struct task *t)
{
	pid_t pid = t->pid;
	int status;

	t->pid = 0;
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status);
}

/* Kill a task, and wait until it is dead. False if it ended before that. */
static inline bool task_kill(struct task *t)
{
	return t->pid && !kill(t->pid, SIGKILL) && !task_wait(t);
}

/* Read a file of the task in /proc; empty if that fails. */
static inline void task_proc(const struct task *t, const char *name, char *text, size_t size)
{
	char path[64];
	ssize_t len;
	int fd;

	text[0] = 0;
	snprintf(path, sizeof(path), "/proc/%d/%s", t->pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	len = read(fd, text, size - 1);
	text[len > 0 ? len : 0] = 0;
	close(fd);
}

/* Does the task sleep in a function of the kernel? */
static inline bool task_sleeps_in(const struct task *t, const char *function)
{
	char text[64];

	task_proc(t, "wchan", text, sizeof(text));
	return !strncmp(text, function, strlen(function));
}

/* The state of the task, see proc_pid_stat(5); 0 if it is unknown. */
static inline char task_state(const struct task *t)
{
	char text[512], *state;

	task_proc(t, "stat", text, sizeof(text));
	state = strrchr(text, ')');
	return state && state[1] == ' ' ? state[2] : 0;
}

/* Does the task sleep? */
static inline bool task_sleeps(const struct task *t)
{
	char state = task_state(t);

	return state == 'S' || state == 'D';
}

/* --- requests --- */

/**
 * struct request - an ioctl that a task issues
 * @task: the task; its error is that of the ioctl
 * @fd: of the ioctl
 * @cmd: of the ioctl
 * @args: of the ioctl
 */
struct request {
	struct task task;
	int fd;
	unsigned long cmd;
	void *args;
};

static inline int request_run(void *arg)
{
	struct request *r = arg;

	return dm_ioctl(r->fd, r->cmd, r->args);
}

static inline bool request_start(struct request *r, int fd, unsigned long cmd, void *args)
{
	r->fd = fd;
	r->cmd = cmd;
	r->args = args;
	return task_start(&r->task, request_run, r);
}

/* --- grips --- */

enum grip_kind { GRIP_REFERENCE, GRIP_LOCK, GRIP_PIPE };

/**
 * struct grip - keeps a page from being moved
 * @kind: how: the kernel has a reference to the page, or its lock, or the page is in a pipe
 * @request: of kinds other than GRIP_PIPE: DRM_IOCTL_DEVMEM_HOLD
 * @hold: its arguments
 * @pipe: of GRIP_PIPE
 * @taken: it has not been dropped
 */
struct grip {
	enum grip_kind kind;
	struct request request;
	struct devmem_hold hold;
	int pipe[2];
	bool taken;
};

/* Does the request DRM_IOCTL_DEVMEM_HOLD have its page? */
static inline bool is_holding(const struct request *r)
{
	return task_sleeps_in(&r->task, "devmem_ioctl_hold");
}

/* Is the page still held? */
static inline bool grip_holds(const struct grip *g)
{
	return g->taken && (g->kind == GRIP_PIPE || is_holding(&g->request));
}

/*
 * Hold a page of the caller's memory for @ms, or in a pipe until the grip is dropped. @fd: of
 * any device. When this returns the page is held, or has been.
 */
static inline void grip_take(struct __test_metadata *_metadata, struct grip *g,
			     enum grip_kind kind, int fd, void *addr, __u32 ms)
{
	struct iovec page = { addr, DM_PAGE };

	g->kind = kind;
	g->taken = true;
	if (kind == GRIP_PIPE) {
		ASSERT_EQ(0, pipe(g->pipe));
		ASSERT_EQ((ssize_t)DM_PAGE, vmsplice(g->pipe[1], &page, 1, 0));
		return;
	}
	g->hold = (struct devmem_hold){
		.addr = (unsigned long)addr,
		.flags = kind == GRIP_LOCK ? DEVMEM_HOLD_LOCK : 0,
		.ms = ms,
	};
	ASSERT_TRUE(request_start(&g->request, fd, DRM_IOCTL_DEVMEM_HOLD, &g->hold));
	ASSERT_TRUE(dm_soon(grip_holds(g) || task_done(&g->request.task))) {
		TH_LOG("the kernel does not say that it holds the page: is CONFIG_KALLSYMS on?");
	}
	ASSERT_EQ(0, g->request.task.err);
}

/* Let go of a page that is still held. */
static inline void grip_drop(struct __test_metadata *_metadata, struct grip *g)
{
	EXPECT_TRUE(grip_holds(g));
	g->taken = false;
	if (g->kind == GRIP_PIPE) {
		close(g->pipe[0]);
		close(g->pipe[1]);
	} else {
		EXPECT_TRUE(task_kill(&g->request.task));
	}
}

/* Wait until the kernel lets go of the page by itself. */
static inline void grip_wait(struct __test_metadata *_metadata, struct grip *g)
{
	g->taken = false;
	EXPECT_TRUE(task_wait(&g->request.task));
	EXPECT_EQ(0, g->request.task.err);
}

/* The kernel log, from here on. */
static inline int log_open(struct __test_metadata *_metadata)
{
	int kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	ASSERT_GE(kmsg, 0);
	lseek(kmsg, 0, SEEK_END);
	return kmsg;
}

/* Has the kernel named the page that it could not @verb, since log_open()? Closes the log. */
static inline bool log_names_page(int kmsg, const char *verb)
{
	bool found = false;
	unsigned long pfn;
	char line[1024], start[64];
	const char *at;
	ssize_t n;

	snprintf(start, sizeof(start), "cannot %s: pfn ", verb);
	while ((n = read(kmsg, line, sizeof(line) - 1)) > 0) {
		line[n] = 0;
		at = strstr(line, start);
		if (at && sscanf(at + strlen(start), "%lx has ", &pfn) == 1 && pfn)
			found = true;
	}
	close(kmsg);
	return found;
}

#endif /* _DEVMEM_TASK_H_ */
