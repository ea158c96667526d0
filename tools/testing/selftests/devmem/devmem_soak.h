/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of the soak test share: devmem_soak.c has the overview.
 *
 * devmem_soak.c		starts all processes and watches them
 * devmem_soak_worker.c		workers use memory on devices
 * devmem_soak_check.c		contents of memory, and checks of them
 * devmem_soak_control.c	the controller changes the topology
 * devmem_soak_cards.c		the controller plugs cards instead
 */
#ifndef _DEVMEM_SOAK_H_
#define _DEVMEM_SOAK_H_

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/prctl.h>

#include "../kselftest.h"
#include "devmem_util.h"

#define MAX_DEVS	8
#define MAX_WORKERS	16
/* Threads of a worker. */
#define THREADS		3
/* Memory of a thread. Not whole huge pages: neighbours have some in common. */
#define STRIPE		(3 * DM_MIB)
/* Memory beside it; more than some devices have. */
#define SPARE		(40 * DM_MIB)
#define PAGE_WORDS	(DM_PAGE / DM_WORD)
/* Contents of a page, and operations of a thread, that are remembered. */
#define VERSIONS	8
#define LOG		12
/* The most pages of most operations. */
#define RUN		32
#define CGROUP		"/sys/fs/cgroup/devmem-soak"
/* Seconds. */
#define PROGRESS	10
#define WATCHDOG	120

#define load(p)		__atomic_load_n(p, __ATOMIC_SEQ_CST)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define count(p, n)	__atomic_fetch_add(p, n, __ATOMIC_SEQ_CST)
/* A random number for a thread, or for the controller. */
#define chance(actor, of)	(dm_rnd(&(actor)->random) % (of))

/**
 * struct events - events of one kind
 * @begun: how many have begun
 * @ended: how many have ended
 *
 * Something that was good when @ended had some value can only have been affected by an event
 * if @begun is larger now, see happened_since().
 */
struct events {
	unsigned long begun, ended;
};

/* What all processes share. */
struct shared {
	__u64 seed;
	/*
	 * @stop: the workers end. @quiet: the workers have ended, and the controller ends.
	 * @suspect: a process has found something wrong. @failed: and has reported it.
	 */
	bool stop, quiet, suspect, failed;
	/* Pages can be lost: a device is torn out, or a removal is forced. */
	struct events losses;
	/* Accesses of devices can fail: the same, and links that die. */
	struct events deaths;
	struct {
		/* Serial number << 32 | minor, or 0. */
		__u64 device;
		/* Attempts to remove it. */
		struct events leaves;
		/* &shared.deaths.ended when it was made. */
		unsigned long deaths;
	} slots[MAX_DEVS];
	/*
	 * For the watchdog: the controller, and each worker with its children. While there is
	 * a process, its steps have to grow. If one hangs, the others soon wait for it.
	 */
	struct {
		unsigned long steps;
		pid_t pid;
	} actors[1 + MAX_WORKERS];
	/* Workers that have been killed. */
	bool killed[MAX_WORKERS];
	/* For the summary. */
	unsigned long changes, refused, leaves, joins, lost_devices, forced, evictions;
	unsigned long forks, exits, evacuated, poisoned, lost, left, excused, held, squeezes;
	unsigned long sigbus;
	__u64 checked, wrong, stale, leaked;
};

/* Word i is base + i * step. */
struct content {
	__u64 base, step;
};

struct page {
	/* What it holds, and what it held before, newest first. */
	struct content is[VERSIONS];
	/* &shared.losses.ended when it was last known to be good. */
	unsigned long losses;
};

struct memory {
	/* Part of it can be elsewhere for a while, see do_mremap(). */
	unsigned char *at;
	struct page *pages;
	size_t nr;
};

/* A thread of a worker, or its copy in a child. */
struct thread {
	unsigned int worker, index;
	unsigned long life, step, version;
	__u64 seed, random;
	pthread_t thread;
	/* Memory that it uses all the time, and now and then. */
	struct memory m, spare;
	bool huge, is_kid;
	/* A child that has not been waited for. */
	pid_t kid;
	/* Own files, hence own address spaces of the devices. */
	struct file {
		__u64 device;
		int fd;
	} files[MAX_DEVS];
	/* The device of the request at hand. */
	unsigned int slot;
	/* &struct events.ended of its removals, of losses and of deaths, before the request. */
	unsigned long leaves, losses, deaths;
	/* The page that the CPU uses, and where to go on if it is lost. */
	unsigned long guard;
	sigjmp_buf jump;
	/* For the log: what was done, and where pages were. */
	struct entry {
		const char *what;
		size_t p, n;
		unsigned int slot;
		int err;
	} log[LOG];
	unsigned int nr_log;
	size_t look_p;
	__u32 look[RUN];
};

/* The process that changes the topology. */
struct control {
	int ctl;
	__u64 random, serial;
	/* By slot; fd is -1 if there is none. */
	struct dm_dev dev[MAX_DEVS];
	unsigned long evictions[MAX_DEVS];
	unsigned int nr, max;
	/* All devices by id, when they were last looked at. */
	struct devmem_topology_entry topo[DEVMEM_MAX_DEVICES];
	/* Devices are torn out, and changes are forced. */
	bool lossy;
	/* A page for each device, to be there when another device is torn out. */
	struct dm_area guards;
	/* A device is torn out while another change is under way. */
	bool racing;
	unsigned int loss;
	unsigned long loss_delay;
	int loss_err;
};

extern struct shared *shared;
extern __thread struct thread *self;

static inline bool happened_since(const struct events *events, unsigned long ended)
{
	return load(&events->begun) > ended;
}

/* --- messages --- */

/* Not by stdio: another thread may fork. */
#define say(...)	dprintf(STDOUT_FILENO, __VA_ARGS__)

/* The caller exits after this. The first process exits when it sees it. */
#define complain(format, ...) do {						\
	say("soak: FAILED, seed %llu: " format "\n", shared->seed, ##__VA_ARGS__); \
	say_history(self);							\
	store(&shared->failed, true);						\
} while (0)

#define fail(...) do {								\
	complain(__VA_ARGS__);							\
	_exit(1);								\
} while (0)

void say_history(struct thread *t);
void note(struct thread *t, const char *what, size_t p, size_t n, int err);

/* --- devmem_soak_check.c --- */

static inline unsigned char *page(struct thread *t, size_t p)
{
	return t->m.at + p * DM_PAGE;
}

void begin(struct thread *t);
__u64 fresh(struct thread *t);
void page_is(struct thread *t, size_t p, __u64 base, __u64 step);
void say_where(struct thread *t, size_t p);
__u64 content_sum(const struct content *is, __u64 k);
void bus_error(int sig, siginfo_t *info, void *context);
bool any_lost(struct thread *t, size_t p, size_t np, size_t q, size_t nq);
void do_renew(struct thread *t, size_t p, size_t n);
void do_write(struct thread *t, size_t p, size_t n);
void do_check(struct thread *t, size_t p, size_t n);

/* --- the processes; none of these returns --- */

void worker_main(unsigned int worker, unsigned long life);
void squeeze_main(void);
void control_main(struct control *c);
void cards_main(struct control *c);

#endif /* _DEVMEM_SOAK_H_ */
