// SPDX-License-Identifier: GPL-2.0
/*
 * A soak test of device memory in clusters, with the virtual GPUs of drm_devmem:
 * one process changes the interconnect all the time, and others write and check
 * memory that moves about on the devices.
 *
 *	devmem_soak [-s seed] [-m minutes | -c changes] [-p processes]
 *		    [-d devices] [-L 0|1] [-C 0|1]
 *
 * Each actor draws what it does from a sequence of its own, that depends only on
 * the seed: a seed repeats the decisions, if not what the scheduler makes of them.
 *
 * Every word of a process' memory is known at any time. One from an earlier version
 * of its page is stale, anything else is wrong. Pages may only be lost when a device
 * is torn out or a change is forced (-L 0: never), and then they have to say so.
 *
 * With -C the devices are cards, and they change by being plugged, removed and torn out,
 * one of each for a change; see devmem_card.h for who does it.
 *
 * The exit status is 0 if everything was as it should be, 1 if not, 4 if there
 * are no virtual GPUs to be had.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "../kselftest.h"
#include "devmem_card.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define MAX_DEVS	8
#define MAX_WORKERS	16
/* Of a worker. */
#define THREADS		3
/* Memory of a thread. Not whole huge pages: neighbours have some in common. */
#define STRIPE		(3 * DM_MIB)
/* Memory beside it; more than some devices have. */
#define SPARE		(40 * DM_MIB)
#define PAGE_WORDS	(DM_PAGE / DM_WORD)
/* What is remembered of a page, and of a thread's operations. */
#define VERSIONS	8
#define LOG		12
/* The most pages of most operations. */
#define RUN		32
/* Steps of a worker's first thread, with which the worker ends. */
#define LIFE_MIN	50
#define LIFE_MAX	800
/* Of the workers; and swap for them, and how much they have to give back at once. */
#define CGROUP		"/sys/fs/cgroup/devmem-soak"
#define SWAP		(64 * DM_MIB)
#define SQUEEZE		"4M"
/* Longest pause between two changes, and before memory is made short, in microseconds. */
#define PACE		10000
#define SQUEEZE_PACE	1000000
/* Seconds. */
#define PROGRESS	10
#define WATCHDOG	120

#define load(p)		__atomic_load_n(p, __ATOMIC_SEQ_CST)
#define store(p, v)	__atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define count(p, n)	__atomic_fetch_add(p, n, __ATOMIC_SEQ_CST)
/* A random number for a thread, or for the controller. */
#define chance(who, of)	(dm_rnd(&(who)->random) % (of))

/* What all processes share. */
static struct shared {
	__u64 seed;
	/*
	 * It ends: for workers; when those have, for the controller. Somebody found
	 * something wrong; and has said what.
	 */
	bool stop, quiet, suspect, failed;
	/*
	 * Losses and forced changes that have begun, and that have ended. What was good
	 * at some time can only be lost if more have begun now than had ended then.
	 */
	unsigned long troubles, calm;
	struct {
		/* Serial number << 32 | minor, or 0. */
		__u64 device;
		/* Attempts to remove it that have begun, and that have ended. */
		unsigned long leaves, left;
		/* &shared.calm when it was made. */
		unsigned long calm;
	} slots[MAX_DEVS];
	/*
	 * For the watchdog: the controller and each worker with its children. If there is
	 * somebody, the steps have to grow: who hangs is waited for by the others soon.
	 */
	struct {
		unsigned long steps;
		pid_t pid;
	} actors[1 + MAX_WORKERS];
	/* Workers that are to be found dead. */
	bool killed[MAX_WORKERS];
	/* For the summary. */
	unsigned long changes, refused, leaves, joins, losses, forced, evictions;
	unsigned long forks, exits, evacuated, poisoned, lost, excused, held, squeezes;
	unsigned long sigbus;
	__u64 checked, wrong, stale, leaked;
} *shared;

/* Word i is base + i * step. */
struct content {
	__u64 base, step;
};

struct page {
	/* What it holds, and what it held before, newest first. */
	struct content is[VERSIONS];
	/* &shared.calm when it was last known to be good. */
	unsigned long calm;
};

struct memory {
	/* Part of it may be elsewhere for a while, see do_mremap(). */
	unsigned char *at;
	struct page *pages;
	size_t nr;
};

/* A thread of a worker, or what is left of it in a child. */
static struct thread {
	unsigned int worker, index;
	unsigned long life, step, version;
	__u64 seed, random;
	pthread_t thread;
	/* What it uses, and what it uses now and then. */
	struct memory m, spare;
	bool huge, is_kid;
	/* A child that has not been waited for. */
	pid_t kid;
	/* Own files, hence own address spaces of the devices. */
	struct file {
		__u64 device;
		int fd;
	} files[MAX_DEVS];
	/* The device that is asked; what was &left then, and &shared.calm. */
	unsigned int slot;
	unsigned long left, calm;
	/* The page that the CPU uses, and where to go on if it is lost. */
	unsigned long guard;
	sigjmp_buf jump;
	/* For people: what was done, and where pages were. */
	struct entry {
		const char *what;
		size_t p, n;
		unsigned int slot;
		int err;
	} log[LOG];
	unsigned int nr_log;
	size_t look_p;
	__u32 look[RUN];
} threads[THREADS];

static __thread struct thread *self;
static struct dm_area arena;
static bool done;
/* Held for read by who uses the memory; for write to fork when nobody does. */
static pthread_rwlock_t in_use;

/* --- saying things --- */

/* Not by stdio: anybody may be about to fork. */
#define say(...)	dprintf(STDOUT_FILENO, __VA_ARGS__)

/* Whoever says this exits; the first process does when it sees that. */
#define complain(format, ...) do {						\
	say("soak: FAILED, seed %llu: " format "\n", shared->seed, ##__VA_ARGS__); \
	say_history(self);							\
	store(&shared->failed, true);						\
} while (0)

#define fail(...) do {								\
	complain(__VA_ARGS__);							\
	_exit(1);								\
} while (0)

static void say_history(struct thread *t)
{
	unsigned int i;

	if (!t)
		return;
	say("  worker %u, life %lu, thread %u, step %lu%s; before that:\n", t->worker,
	    t->life, t->index, t->step, t->is_kid ? ", in a child" : "");
	for (i = t->nr_log > LOG ? t->nr_log - LOG : 0; i < t->nr_log; i++) {
		struct entry *e = &t->log[i % LOG];

		say("  %s, pages %zu+%zu, device %u: %d\n", e->what, e->p, e->n, e->slot,
		    e->err);
	}
}

static void note(struct thread *t, const char *what, size_t p, size_t n, int err)
{
	t->log[t->nr_log++ % LOG] = (struct entry){ what, p, n, t->slot, err };
	count(&shared->actors[1 + t->worker].steps, 1);
}

/* --- pages --- */

static unsigned char *page(struct thread *t, size_t p)
{
	return t->m.at + p * DM_PAGE;
}

static void say_where(struct thread *t, size_t p)
{
	__u32 now = 0, before = p - t->look_p < RUN ? t->look[p - t->look_p] : 0;
	int err = -ENODEV, s;

	for (s = 0; s < MAX_DEVS && err; s++)
		if (t->files[s].fd >= 0)
			err = dm_query(t->files[s].fd, page(t, p), DM_PAGE, &now);
	say("  page %zu at %p: QUERY says %#x (%d), and said %#x before\n", p,
	    (void *)page(t, p), now, err, before);
}

/* A number that no page has had anything to do with before. */
static __u64 fresh(struct thread *t)
{
	return dm_mix(t->seed + dm_mix(++t->version));
}

static void begin(struct thread *t)
{
	t->calm = load(&shared->calm);
}

static void page_is(struct thread *t, size_t p, __u64 base, __u64 step)
{
	struct page *pg = &t->m.pages[p];

	memmove(&pg->is[1], &pg->is[0], sizeof(pg->is) - sizeof(pg->is[0]));
	pg->is[0] = (struct content){ base, step };
	pg->calm = t->calm;
}

/*
 * New pages in the place of old ones, in any of the ways there are. Nobody maps
 * anything anywhere else, so a hole stays one.
 */
static void do_renew(struct thread *t, size_t p, size_t n)
{
	int how = chance(t, 3), flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t len = n * DM_PAGE;
	void *at = page(t, p);
	bool good = true;

	begin(t);
	flags |= how == 1 ? MAP_FIXED : MAP_FIXED_NOREPLACE;
	if (how == 0)
		good = !madvise(at, len, MADV_DONTNEED);
	if (how == 2)
		good = !munmap(at, len);
	if (how && good)
		good = mmap(at, len, PROT_READ | PROT_WRITE, flags, -1, 0) == at;
	if (!good)
		fail("new pages %zu+%zu: %s", p, n, strerror(errno));
	madvise(at, len, t->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	note(t, "renew", p, n, how);
	for (; n; n--)
		page_is(t, p++, 0, 0);
}

static void bus_error(int sig, siginfo_t *info, void *context)
{
	unsigned long addr = (unsigned long)info->si_addr, guard = self ? self->guard : 0;

	(void)context;
	if (!guard || addr - guard >= DM_PAGE || info->si_code != BUS_MCEERR_AR)
		fail("signal %d with code %d at %#lx, and what was used is the page at %#lx",
		     sig, info->si_code, addr, guard);
	count(&shared->sigbus, 1);
	siglongjmp(self->jump, 1);
}

static void page_wrong(struct thread *t, size_t p, const __u64 *words)
{
	struct content *is = t->m.pages[p].is;
	size_t i, v, first = PAGE_WORDS;
	__u64 wrong = 0, stale = 0;

	/* First: this process may be killed at any time. */
	store(&shared->suspect, true);
	for (i = 0; i < PAGE_WORDS; i++) {
		__u64 diff = words[i] ^ (is->base + i * is->step);

		if (diff && first == PAGE_WORDS)
			first = i;
		for (v = 1; v < VERSIONS && words[i] != is[v].base + i * is[v].step; v++)
			;
		for (; diff; diff >>= 8)
			*(v < VERSIONS ? &stale : &wrong) += !!(diff & 0xff);
	}
	count(&shared->wrong, wrong);
	count(&shared->stale, stale);
	say_where(t, p);
	fail("page %zu: the CPU finds %llu wrong and %llu stale bytes, and at %p %#llx, not %#llx",
	     p, wrong, stale, (void *)&words[first], words[first],
	     is->base + first * is->step);
}

/*
 * The CPU writes or checks all of a page. False if it turned out to be lost; then
 * there is another one now, full of zeroes.
 */
static bool page_cpu(struct thread *t, size_t p, bool write)
{
	const struct content is = { write ? fresh(t) : t->m.pages[p].is->base,
				    write ? 1 : t->m.pages[p].is->step };
	__u64 *words = (__u64 *)page(t, p);
	size_t i;

	begin(t);
	store(&t->guard, (unsigned long)words);
	if (sigsetjmp(t->jump, 0)) {
		store(&t->guard, 0);
		note(t, "lost", p, 1, 0);
		if (load(&shared->troubles) <= t->m.pages[p].calm)
			fail("page %zu is lost, and there was no loss since it was good", p);
		count(&shared->lost, 1);
		do_renew(t, p, 1);
		return false;
	}
	for (i = 0; i < PAGE_WORDS; i++) {
		if (write)
			__atomic_store_n(&words[i], is.base + i, __ATOMIC_RELAXED);
		else if (load(&words[i]) != is.base + i * is.step)
			page_wrong(t, p, words);
	}
	store(&t->guard, 0);
	count(&shared->actors[1 + t->worker].steps, 1);
	if (write)
		page_is(t, p, is.base, is.step);
	t->m.pages[p].calm = t->calm;
	count(&shared->checked, write ? 0 : DM_PAGE);
	return true;
}

/*
 * Is one of these pages lost, or these? The CPU has access to coherent ones of a device
 * that is gone until its removal has got that far.
 */
static bool any_lost(struct thread *t, size_t p, size_t np, size_t q, size_t nq)
{
	time_t end = time(NULL) + (dm_coherent("coherent_ram") ? WATCHDOG / 2 : 0);
	bool lost = false;
	size_t i;

	for (;;) {
		for (i = 0; i < np; i++)
			lost |= !page_cpu(t, p + i, false);
		for (i = 0; i < nq; i++)
			lost |= !page_cpu(t, q + i, false);
		if (lost || time(NULL) >= end)
			return lost;
		usleep(10000);
	}
}

static void do_write(struct thread *t, size_t p, size_t n)
{
	note(t, "write", p, n, 0);
	for (; n; n--, p++)
		while (!page_cpu(t, p, true))
			;
}

static void do_check(struct thread *t, size_t p, size_t n)
{
	note(t, "check", p, n, 0);
	for (; n; n--)
		page_cpu(t, p++, false);
}

/* What DEVMEM_OP_CHECKSUM has to say of a page that begins with word k of its range. */
static __u64 content_sum(const struct content *is, __u64 k)
{
	const __u64 n = PAGE_WORDS, sum_i = n * (n - 1) / 2;
	const __u64 sum_ii = (n - 1) * n * (2 * n - 1) / 6;

	return is->base * (n * (2 * k + 1) + 2 * sum_i) +
	       is->step * (sum_i * (2 * k + 1) + 2 * sum_ii);
}

/* --- devices --- */

/* A file of any device, or -1 if there is none. */
static int any_file(struct thread *t)
{
	unsigned int first = chance(t, MAX_DEVS), i;

	begin(t);
	for (i = 0; i < MAX_DEVS; i++) {
		unsigned int s = (first + i) % MAX_DEVS;
		struct file *file = &t->files[s];
		__u64 device;

		t->slot = s;
		t->left = load(&shared->slots[s].left);
		device = load(&shared->slots[s].device);
		if (device != file->device && file->fd >= 0) {
			close(file->fd);
			file->fd = -1;
		}
		file->device = device;
		if (device && file->fd < 0)
			file->fd = dm_open((__u32)device);
		if (file->fd >= 0)
			return file->fd;
		if (device && load(&shared->slots[s].leaves) <= t->left)
			fail("can't open device %u: %s", s, strerror(-file->fd));
		file->fd = -1;
	}
	return -1;
}

/* Is there an excuse for an error of the device that was asked? */
static bool excused(struct thread *t, int err)
{
	unsigned int s = t->slot;

	count(&shared->excused, 1);
	if (err == -ENODEV)
		return load(&shared->slots[s].leaves) > t->left ||
		       load(&shared->slots[s].device) != t->files[s].device;
	if (err == -EIO)
		return load(&shared->troubles) > t->calm;
	return err == -EBUSY || err == -ENOMEM;
}

/* A device found a sum that is wrong. What does it find page by page? */
static void sum_wrong(struct thread *t, int fd, size_t p, size_t n)
{
	size_t i, v, wrong = 0, stale = 0;
	__u64 sum;

	store(&shared->suspect, true);
	for (i = p; i < p + n; i++) {
		struct content *is = t->m.pages[i].is;

		if (dm_checksum(fd, page(t, i), DM_PAGE, &sum))
			continue;
		for (v = 0; v < VERSIONS && sum != content_sum(&is[v], 0); v++)
			;
		wrong += v == VERSIONS;
		stale += v && v < VERSIONS;
		if (v)
			say_where(t, i);
	}
	say("soak: device %u finds pages %zu+%zu wrong: %zu stale, %zu else; and the CPU:\n",
	    t->slot, p, n, stale, wrong);
	do_check(t, p, n);
	/* Some pages, or just once. */
	count(&shared->stale, stale * DM_PAGE);
	count(&shared->wrong, wrong * DM_PAGE ?: !stale);
	fail("the CPU finds what is right");
}

/*
 * A command for any device. If that can't go on, the rest is for another one; if
 * there is none, it is left.
 */
static void do_exec(struct thread *t, __u32 op, size_t p, size_t q, size_t n)
{
	static const char * const what[] = { "fill", "copy", "sum", "add" };
	const bool writes = op != DEVMEM_OP_CHECKSUM;
	const bool reads = op == DEVMEM_OP_COPY || !writes;
	const __u64 step = op == DEVMEM_OP_FILL ? chance(t, 2) : 0;
	const __u64 value = fresh(t);
	size_t i = 0, k;

	while (i < n) {
		struct devmem_exec exec = { .op = op, .flags = step ? DEVMEM_EXEC_COUNT : 0,
					    .len = (n - i) * DM_PAGE };
		int fd = any_file(t), err;
		bool fine, lost = false;
		__u64 sum = 0;

		if (fd < 0)
			return;
		if (writes)
			exec.dst = (unsigned long)page(t, p + i);
		if (reads)
			exec.src = (unsigned long)page(t, q + i);
		else
			exec.value = value + i * PAGE_WORDS * step;
		err = dm_exec(fd, &exec);
		note(t, what[op], writes ? p + i : q, n - i, err);
		fine = !err || err == -EFAULT || excused(t, err);

		for (k = 0; k < exec.done / DM_PAGE; k++, i++) {
			struct content *to = t->m.pages[p + i].is, *from = t->m.pages[q + i].is;

			if (op == DEVMEM_OP_FILL)
				page_is(t, p + i, value + i * PAGE_WORDS * step, step);
			else if (op == DEVMEM_OP_COPY)
				page_is(t, p + i, from->base, from->step);
			else if (op == DEVMEM_OP_ATOMIC_ADD)
				page_is(t, p + i, to->base + value, to->step);
			else
				sum += content_sum(from, k * PAGE_WORDS);
		}
		/* Of what was read before an error, too. */
		if (!writes && exec.result != sum)
			sum_wrong(t, fd, q + i - k, k);
		count(&shared->checked, writes ? 0 : k * DM_PAGE);

		if (exec.done % DM_PAGE)	/* half of an addition */
			do_write(t, p + i++, 1);
		else if (err == -EFAULT)	/* one or both must be lost */
			lost = any_lost(t, q + i, reads, p + i, writes);
		if (!fine || (err == -EFAULT && !lost && !(exec.done % DM_PAGE)))
			fail("%s: %s after %llu bytes", what[op], strerror(-err), exec.done);
		/* Whoever changes the topology needs the CPU, too. */
		if (err)
			usleep(500);
	}
}

/* To any device or to system memory; with @wide, pages of all threads from there on. */
static void do_migrate(struct thread *t, void *wide, size_t p, size_t n, __u32 flags)
{
	bool system = flags == DEVMEM_MIGRATE_TO_SYSTEM, good = true;
	int fd = any_file(t), err;
	unsigned long calm;

	if (fd < 0)
		return;
	err = dm_migrate(fd, wide ?: page(t, p), n * DM_PAGE, flags);
	note(t, system ? "to system" : wide ? "wide" : "to device", p, n, err);
	if (err >= 0 || (err == -ENOSPC && !system))
		return;
	/* What a device had may be lost to it, or to that where a page was. */
	calm = load(&shared->slots[t->slot].calm);
	if (err == -ENODEV && load(&shared->troubles) > (calm < t->calm ? calm : t->calm))
		return;
	if (err != -EBUSY || system)
		good = !excused(t, err);
	/* Other threads make holes, this one does not; so something must be lost. */
	if (err == -EFAULT)
		good = !wide && !(system && any_lost(t, p, n, 0, 0));
	if (good)
		fail("MIGRATE: %s", strerror(-err));
}

/* Where are these pages? */
static void do_look(struct thread *t, size_t p, size_t n)
{
	int fd = any_file(t), err;

	if (fd < 0)
		return;
	memset(t->look, 0, sizeof(t->look));
	t->look_p = p;
	err = dm_query(fd, page(t, p), (n < RUN ? n : RUN) * DM_PAGE, t->look);
	note(t, "look", p, n, err);
	if (err && (err == -EBUSY || !excused(t, err)))
		fail("QUERY: %s", strerror(-err));
}

/* Somebody else in the kernel uses a page for a while. */
static void do_hold(struct thread *t, size_t p)
{
	struct devmem_hold hold = {
		.addr = (unsigned long)page(t, p),
		.flags = chance(t, 2) ? DEVMEM_HOLD_LOCK : 0,
		.ms = 1 + chance(t, chance(t, 8) ? 30 : 500),
	};
	int fd = any_file(t), err;

	if (fd < 0)
		return;
	err = dm_ioctl(fd, DRM_IOCTL_DEVMEM_HOLD, &hold);
	note(t, "hold", p, 1, err);
	count(&shared->held, !err);
	if (err && err != -ENOENT && !excused(t, err))
		fail("HOLD: %s", strerror(-err));
}

/* --- what else a thread does --- */

/* Pages are moved elsewhere, and used there, and moved back. */
static void do_mremap(struct thread *t, size_t p, size_t n)
{
	const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
	unsigned char *home = t->m.at, *from = page(t, p), *to = t->spare.at;
	size_t len = n * DM_PAGE;

	/* So that huge pages can stay whole, or so that not. */
	to += chance(t, 2) ? (unsigned long)from % DM_HUGE : chance(t, 512) * DM_PAGE;
	/* Neither leaves a hole that somebody else could map something in. */
	if (mremap(from, len, len, flags, to) != to)
		fail("mremap: %s", strerror(errno));
	note(t, "moved", p, n, 0);
	t->m.at = to - p * DM_PAGE;
	if (chance(t, 2))
		do_migrate(t, NULL, p, n, DEVMEM_MIGRATE_TO_DEVICE);
	do_exec(t, chance(t, 2) ? DEVMEM_OP_CHECKSUM : DEVMEM_OP_FILL, p, p, n);
	if (chance(t, 2))
		do_check(t, p, n);
	t->m.at = home;
	if (mremap(to, len, len, flags, from) != from)
		fail("mremap back: %s", strerror(errno));
	note(t, "moved back", p, n, 0);
}

/* More memory than some devices have, for a short time. */
static void do_flood(struct thread *t)
{
	const struct memory home = t->m;
	size_t n = (8 + chance(t, 32)) * DM_MIB / DM_PAGE;

	t->m = t->spare;
	do_renew(t, 0, n);
	do_migrate(t, NULL, 0, n, DEVMEM_MIGRATE_TO_DEVICE);
	do_exec(t, DEVMEM_OP_FILL, 0, 0, n / (1 + chance(t, 4)));
	if (chance(t, 2))
		do_migrate(t, NULL, 0, n, DEVMEM_MIGRATE_TO_DEVICE);
	do_exec(t, DEVMEM_OP_CHECKSUM, 0, 0, n);
	if (!chance(t, 4))
		do_check(t, 0, n);
	do_renew(t, 0, n);
	t->m = home;
}

static void thread_check(struct thread *t)
{
	if (chance(t, 2))
		do_exec(t, DEVMEM_OP_CHECKSUM, 0, 0, t->m.nr);
	do_look(t, chance(t, t->m.nr - RUN), RUN);
	do_check(t, 0, t->m.nr);
}

static void thread_step(struct thread *t);

/* The child of a fork: of all threads only this one is left. */
static void kid_main(struct thread *t, bool all)
{
	unsigned int i, s;

	for (i = 0; i < THREADS; i++) {
		self = &threads[i];
		/* Files belong to the parent. They are closed at the end. */
		for (s = 0; s < MAX_DEVS; s++)
			self->files[s].fd = -1;
		self->is_kid = true;
		self->version += 1UL << 40;
		if (i == t->index || all)
			thread_check(self);
	}
	self = t;
	for (i = chance(t, 16); i; i--)
		thread_step(t);
	thread_check(t);
	_exit(0);
}

static void kid_wait(struct thread *t)
{
	int status = 0;

	if (t->kid > 0 && waitpid(t->kid, &status, 0) == t->kid && status)
		fail("a child ends with status %#x", status);
	t->kid = 0;
}

/* The parent goes on, and waits before the next one. */
static void do_fork(struct thread *t, bool all)
{
	kid_wait(t);
	note(t, "fork", 0, t->m.nr, all);
	t->kid = fork();
	if (!t->kid)
		kid_main(t, all);
	count(t->kid > 0 ? &shared->forks : &shared->excused, 1);
}

/* A run of pages: often a few, sometimes many. */
static size_t some_pages(struct thread *t, size_t max, size_t *p)
{
	size_t n = 1 + chance(t, chance(t, 8) ? RUN : max);

	*p = chance(t, max - n + 1);
	return n;
}

/* One thing at random. */
static void thread_step(struct thread *t)
{
	static const int advices[] = { MADV_PAGEOUT, MADV_PAGEOUT, MADV_COLD, MADV_COLLAPSE };
	size_t p, n = some_pages(t, t->m.nr, &p), half = t->m.nr / 2;
	unsigned int what = chance(t, 64);
	unsigned char *at = page(t, p);

	if (what < 7) {
		do_write(t, p, n);
	} else if (what < 13) {
		if (!chance(t, 8))
			do_look(t, p, n);
		do_check(t, p, n);
	} else if (what < 21) {
		do_exec(t, DEVMEM_OP_FILL, p, p, n);
	} else if (what < 26) {
		/* From one half to the other: they must not overlap. */
		n = some_pages(t, half, &p);
		if (chance(t, 2))
			do_exec(t, DEVMEM_OP_COPY, p, half + p, n);
		else
			do_exec(t, DEVMEM_OP_COPY, half + p, p, n);
	} else if (what < 34) {
		do_exec(t, DEVMEM_OP_CHECKSUM, p, p, n);
	} else if (what < 40) {
		do_exec(t, DEVMEM_OP_ATOMIC_ADD, p, p, n);
	} else if (what < 48) {
		do_migrate(t, NULL, p, n, DEVMEM_MIGRATE_TO_DEVICE);
	} else if (what < 50) {
		/* A huge page, or all from there on. */
		at = arena.mem + (at - arena.mem) / DM_HUGE * DM_HUGE;
		n = (arena.mem + arena.len - at) / DM_PAGE;
		if (n > DM_HUGE / DM_PAGE && chance(t, 8))
			n = DM_HUGE / DM_PAGE;
		do_migrate(t, at, p, n, DEVMEM_MIGRATE_TO_DEVICE);
	} else if (what < 52) {
		do_migrate(t, NULL, p, n, DEVMEM_MIGRATE_TO_SYSTEM);
	} else if (what < 55) {
		/* It may fail for many reasons; that the bytes stay is what counts. */
		madvise(at, n * DM_PAGE, advices[chance(t, 4)]);
		note(t, "advise", p, n, 0);
	} else if (what < 57) {
		do_renew(t, p, n);
	} else if (what < 59) {
		do_mremap(t, p, n);
	} else if (what < 61) {
		do_hold(t, p);
	} else if (what < 63 && !t->is_kid && !chance(t, 3)) {
		do_flood(t);
	} else if (what == 63 && !t->is_kid) {
		do_fork(t, false);
	}
}

static void *thread_main(void *arg)
{
	struct thread *t = arg;
	unsigned long life = t->index ? -1UL : LIFE_MIN + chance(t, LIFE_MAX - LIFE_MIN);

	self = t;
	for (t->step = 0; t->step < life && !load(&done) && !load(&shared->stop); t->step++) {
		/* However much the last step drew, this one draws the same. */
		t->random = dm_mix(t->seed + dm_mix(t->step));
		if (!chance(t, 128)) {
			pthread_rwlock_wrlock(&in_use);
			do_fork(t, true);
		} else {
			pthread_rwlock_rdlock(&in_use);
			thread_step(t);
		}
		pthread_rwlock_unlock(&in_use);
	}
	/* The first one decides how all of them end. */
	if (!t->index && !load(&shared->stop) && chance(t, 2)) {
		if (chance(t, 2))
			_exit(0);
		store(&shared->killed[t->worker], true);
		kill(getpid(), SIGKILL);
	}
	store(&done, true);
	thread_check(t);
	kid_wait(t);
	return NULL;
}

static void memory_init(struct memory *m, void *at, size_t len, bool huge)
{
	size_t p;

	m->at = at;
	m->nr = len / DM_PAGE;
	m->pages = calloc(m->nr, sizeof(*m->pages));
	if (!m->pages)
		fail("no memory");
	for (p = 0; p < m->nr; p++)
		m->pages[p].calm = load(&shared->calm);
	madvise(at, len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static void worker_main(unsigned int worker, unsigned long life)
{
	struct sigaction action = { .sa_sigaction = bus_error,
				    .sa_flags = SA_SIGINFO | SA_NODEFER };
	pthread_rwlockattr_t attr;
	struct dm_area spare;
	unsigned int i, s;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	shared->actors[1 + worker].pid = getpid();
	sigaction(SIGBUS, &action, NULL);
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&in_use, &attr);

	if (dm_area_init(&arena, THREADS * STRIPE, DM_PAGE, false) ||
	    dm_area_init(&spare, THREADS * SPARE, DM_PAGE, false))
		fail("no memory");
	for (i = 0; i < THREADS; i++) {
		struct thread *t = &threads[i];

		t->worker = worker;
		t->life = life;
		t->index = i;
		t->seed = dm_mix(dm_mix(dm_mix(shared->seed + worker) + life) + i);
		t->random = t->seed;
		t->huge = chance(t, 2);
		memory_init(&t->m, arena.mem + i * STRIPE, STRIPE, t->huge);
		memory_init(&t->spare, spare.mem + i * SPARE, SPARE, t->huge);
		for (s = 0; s < MAX_DEVS; s++)
			t->files[s].fd = -1;
	}
	for (i = 1; i < THREADS; i++)
		if (pthread_create(&threads[i].thread, NULL, thread_main, &threads[i]))
			fail("no thread");
	thread_main(&threads[0]);
	for (i = 1; i < THREADS; i++)
		pthread_join(threads[i].thread, NULL);
	_exit(0);
}

/* --- the topology --- */

/* The process that changes it. */
static struct control {
	int ctl;
	__u64 random, serial;
	/* By slot; fd is -1 if there is none. */
	struct dm_dev dev[MAX_DEVS];
	unsigned long evictions[MAX_DEVS];
	unsigned int nr, max;
	/* All devices by id, when they were last looked at. */
	struct devmem_topology_entry topo[DEVMEM_MAX_DEVICES];
	/* Whether anything may be lost. */
	bool lossy;
	/* A page for each device, to be there when another one is torn out. */
	struct dm_area guards;
	/* A device is torn out while something else goes on. */
	bool racing;
	unsigned int loss;
	unsigned long loss_delay;
	int loss_err;
} control;

/* One of the devices that are there. */
static unsigned int any_device(struct control *c)
{
	unsigned int nth = chance(c, c->nr), s;

	for (s = 0; c->dev[s].fd < 0 || nth--; s++)
		;
	return s;
}

static bool linked(struct control *c, __u32 a, __u32 b)
{
	unsigned int i;

	for (i = 0; i < c->nr && c->topo[i].id != a; i++)
		;
	return i < c->nr && c->topo[i].links >> b & 1;
}

/* What must hold at any time. */
static void look(struct control *c)
{
	struct devmem_topology_entry *topo = c->topo;
	int nr = dm_topology(c->ctl, topo, DEVMEM_MAX_DEVICES), i, j, err;
	struct devmem_stats stats;
	unsigned int s;

	if (nr != (int)c->nr)
		fail("TOPOLOGY: %d, should be %u devices", nr, c->nr);
	for (i = 0; i < nr; i++)
		for (j = 0; j < nr; j++)
			if (i != j && topo[i].owner_id == topo[j].owner_id &&
			    !linked(c, topo[i].id, topo[j].id))
				fail("%u and %u share memory, and have no link",
				     topo[i].id, topo[j].id);

	for (s = 0; s < MAX_DEVS; s++) {
		if (c->dev[s].fd < 0)
			continue;
		err = dm_stats(c->dev[s].fd, &stats);
		if (err || stats.violations ||
		    (stats.link_errors && shared->slots[s].calm == shared->troubles))
			fail("device %u (%d): %llu violations, %llu link errors, %lu troubles",
			     s, err, stats.violations, stats.link_errors,
			     shared->troubles - shared->slots[s].calm);
		c->evictions[s] = stats.evictions;
	}
}

/* An operation is over. If it was refused, nothing has changed. */
static void settle(struct control *c, const char *what, int err)
{
	struct devmem_topology_entry before[DEVMEM_MAX_DEVICES];
	unsigned int i;

	count(err ? &shared->refused : &shared->changes, 1);
	if (err && err != -EBUSY && err != -ENOMEM &&
	    !(c->racing && (err == -EIO || err == -ENOENT)))
		fail("%s: %s", what, strerror(-err));
	/* Something goes on still. */
	if (c->racing)
		return;
	memcpy(before, c->topo, sizeof(before));
	look(c);
	for (i = 0; err && i < c->nr; i++)
		if (before[i].id != c->topo[i].id || before[i].links != c->topo[i].links ||
		    before[i].owner_id != c->topo[i].owner_id)
			fail("%s was refused, and device %u has changed", what, before[i].id);
}

static __u32 any_timeout(struct control *c, bool lossy)
{
	return lossy || !chance(c, 4) ? 1 + chance(c, 100) : 0;
}

static void do_join(struct control *c)
{
	__u64 size = (16 + chance(c, 17)) * 2, chunk = size;
	unsigned int s;
	int err;

	/* One chunk, or a few, or many. */
	if (chance(c, 2))
		chunk = chance(c, 4) ? (1 + chance(c, size / 2)) * 2 : 2;
	for (s = 0; c->dev[s].fd >= 0; s++)
		;
	err = dm_create(c->ctl, size * DM_MIB, chunk * DM_MIB, &c->dev[s]);
	if (!err) {
		c->nr++;
		store(&shared->slots[s].calm, load(&shared->calm));
		store(&shared->slots[s].device, ++c->serial << 32 | c->dev[s].minor);
		count(&shared->joins, 1);
	}
	settle(c, "CREATE", err);
}

/* Remove a device; if lossy, repeated until it is gone. Any thread. */
static int leave(struct control *c, unsigned int s, __u32 flags, __u32 timeout)
{
	time_t end = time(NULL) + WATCHDOG / 2;
	struct devmem_op_stats stats;
	int err;

	count(&shared->slots[s].leaves, 1);
	count(&shared->troubles, !!flags);
	do {
		err = dm_destroy_within(c->ctl, c->dev[s].id, flags, timeout, &stats);
		count(&shared->poisoned, stats.pages_poisoned);
		if (!flags && !c->racing && stats.pages_poisoned)
			fail("%llu pages were lost by a planned DESTROY", stats.pages_poisoned);
	} while (flags && err == -EBUSY && time(NULL) < end && !usleep(1000));
	if (!err)
		store(&shared->slots[s].device, 0);
	count(&shared->calm, !!flags);
	count(&shared->slots[s].left, 1);
	return err;
}

static void gone(struct control *c, unsigned int s, unsigned long *counter)
{
	close(c->dev[s].fd);
	c->dev[s].fd = -1;
	c->nr--;
	count(&shared->evictions, c->evictions[s]);
	count(counter, 1);
}

static int do_leave(struct control *c, unsigned int s, __u32 flags, __u32 timeout)
{
	int err = leave(c, s, flags, timeout);

	if (!err)
		gone(c, s, &shared->leaves);
	else if (flags)
		fail("forced DESTROY: %s", strerror(-err));
	count(&shared->forced, !!flags);
	settle(c, "DESTROY", err);
	return err;
}

/* Any change of links that does change something. */
static unsigned int any_links(struct control *c, struct devmem_link *links)
{
	unsigned int mask = chance(c, 1U << MAX_DEVS), how = chance(c, 6), nr = 0, a, b;
	bool changes = false, up;

	for (a = 0; a < MAX_DEVS; a++) {
		for (b = a + 1; b < MAX_DEVS; b++) {
			if (c->dev[a].fd < 0 || c->dev[b].fd < 0 ||
			    (how > 1 && chance(c, how)))
				continue;
			/* In two parts, or all; or some, at random. */
			up = chance(c, 3);
			if (how < 2)
				up = how || (mask >> a & 1) == (mask >> b & 1);
			changes |= up != linked(c, c->dev[a].id, c->dev[b].id);
			links[nr++] = (struct devmem_link){ c->dev[a].id, c->dev[b].id, up, 0 };
		}
	}
	if (nr && !changes)
		links[0].up = !links[0].up;
	return nr;
}

static void do_links(struct control *c, __u32 flags)
{
	struct devmem_link links[MAX_DEVS * MAX_DEVS];
	unsigned int nr = any_links(c, links), timeout = any_timeout(c, flags), i;
	time_t end = time(NULL) + WATCHDOG / 2;
	struct devmem_op_stats stats;
	int err;

	if (!nr)
		return;
	count(&shared->troubles, !!flags);
	do {
		err = dm_links_within(c->ctl, links, nr, flags, timeout, &stats);
		count(&shared->poisoned, stats.pages_poisoned);
		if (!flags && !c->racing && stats.pages_poisoned)
			fail("%llu pages were lost by a planned LINK", stats.pages_poisoned);
	} while (flags && err && time(NULL) < end && !usleep(1000));
	if (flags && err)
		fail("forced LINK: %s", strerror(-err));
	count(&shared->calm, !!flags);
	count(&shared->forced, !!flags);
	settle(c, "LINK", err);
	for (i = 0; !err && !c->racing && i < nr; i++)
		if (linked(c, links[i].a, links[i].b) != links[i].up)
			fail("the link of %u and %u is not as it was set", links[i].a,
			     links[i].b);
}

static void *loss_main(void *arg)
{
	struct control *c = arg;

	usleep(c->loss_delay);
	c->loss_err = leave(c, c->loss, DEVMEM_LOST, 0);
	return NULL;
}

/* A page goes to each device. */
static void guards_put(struct control *c)
{
	unsigned int s;

	for (s = 0; s < MAX_DEVS; s++) {
		dm_block_write(&c->guards, s, dm_fresh(s, c->serial, c->guards.base[s]));
		/* If there is room for it; if not, it is safe anyway. */
		if (c->dev[s].fd >= 0)
			dm_migrate(c->dev[s].fd, dm_block(&c->guards, s), DM_PAGE,
				   DEVMEM_MIGRATE_TO_DEVICE);
	}
}

/* What was not on the device that is gone is as it was. */
static void guards_check(struct control *c)
{
	unsigned char copy[DM_PAGE];
	unsigned int s;

	for (s = 0; s < MAX_DEVS; s++) {
		void *at = dm_block(&c->guards, s);
		struct iovec from = { at, DM_PAGE }, to = { copy, DM_PAGE };
		__u64 *words = (__u64 *)copy, i;

		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) == DM_PAGE) {
			for (i = 0; i < PAGE_WORDS; i++)
				if (words[i] != c->guards.base[s] + i)
					fail("a page of device %u is wrong", s);
		} else if (s != c->loss) {
			fail("a page of device %u was lost with device %u", s, c->loss);
		}
		madvise(at, DM_PAGE, MADV_DONTNEED);
	}
}

/* A device is torn out, perhaps while the topology changes. */
static void do_loss(struct control *c)
{
	unsigned int how = chance(c, 4), other = any_device(c);
	pthread_t thread;
	int want = 0;

	c->loss = any_device(c);
	c->loss_delay = chance(c, chance(c, 2) ? 2000 : 50000);
	guards_put(c);
	c->racing = true;
	if (pthread_create(&thread, NULL, loss_main, c))
		fail("no thread");
	if (how == 1)
		do_links(c, 0);
	else if (how == 2 && !do_leave(c, c->loss, 0, any_timeout(c, false)))
		want = -ENOENT;
	else if (how == 3 && other != c->loss)
		do_leave(c, other, 0, any_timeout(c, false));
	pthread_join(thread, NULL);
	c->racing = false;
	if (c->loss_err != want)
		fail("DESTROY of a device that was torn out: %s", strerror(-c->loss_err));
	if (!want)
		gone(c, c->loss, &shared->losses);
	count(&shared->changes, !want);
	guards_check(c);
	look(c);
}

static void control_step(struct control *c)
{
	unsigned int min = (c->max + 1) / 2, what = chance(c, 32);

	if (c->nr < min || (c->nr < c->max && what < 6))
		do_join(c);
	else if (what < 9 && c->nr > min)
		do_leave(c, any_device(c), 0, any_timeout(c, false));
	else if (what == 9 && c->nr > min && c->lossy)
		do_leave(c, any_device(c), DEVMEM_FORCE, any_timeout(c, true));
	else if (what < 12 && c->nr > min && c->lossy)
		do_loss(c);
	else
		do_links(c, what < 15 && c->lossy ? DEVMEM_FORCE : 0);
}

static void control_main(struct control *c)
{
	__u64 seed = dm_mix(~shared->seed), step;
	unsigned int s;
	time_t end;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Who waits for a group does not wait for us. */
	setpgid(0, 0);
	/* There is one of it, and many who use what it changes. */
	setpriority(PRIO_PROCESS, 0, -10);
	shared->actors[0].pid = getpid();
	for (s = 0; s < MAX_DEVS; s++)
		c->dev[s].fd = -1;
	if (dm_area_init(&c->guards, MAX_DEVS * DM_PAGE, DM_PAGE, false))
		fail("no memory");
	look(c);
	for (step = 0; !load(&shared->quiet); step++) {
		c->random = dm_mix(seed + dm_mix(step));
		/* While the others end they need devices still. */
		if (!load(&shared->stop))
			control_step(c);
		shared->actors[0].steps++;
		usleep(chance(c, PACE));
	}

	/* Nobody uses them any more; what was freed late is soon free. */
	end = time(NULL) + PROGRESS;
	do {
		usleep(10000);
		look(c);
		for (s = 0, shared->leaked = 0; s < c->nr; s++)
			shared->leaked += c->topo[s].resident_pages;
	} while (shared->leaked && time(NULL) < end);
	if (shared->leaked)
		fail("%llu pages of devices are left that nobody uses", shared->leaked);
	for (s = 0; s < MAX_DEVS; s++)
		if (c->dev[s].fd >= 0 && do_leave(c, s, 0, 0))
			fail("device %u can't be removed", s);
	_exit(0);
}

/* --- cards --- */

#define NR_CARDS	3

static struct card cards[NR_CARDS] = {
	{ .port = "p0", .name = "c0", .mib = 64, .dev.fd = -1 },
	{ .port = "p1", .name = "c1", .mib = 32, .dev.fd = -1 },
	{ .port = "p2", .name = "c2", .mib = 16, .dev.fd = -1 },
};

/*
 * What the driver has said of the last removals, which are that many. Nothing in the log
 * is above KERN_INFO but what says that a process got SIGBUS.
 */
static void cards_log(unsigned int cards, unsigned long *saved, unsigned long *lost)
{
	unsigned long s, l;
	static int fd = -1;
	char text[8192], *at;
	ssize_t n;

	*saved = *lost = 0;
	if (fd < 0) {
		fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			fail("/dev/kmsg: %s", strerror(errno));
		lseek(fd, 0, SEEK_END);
		return;
	}
	while ((n = read(fd, text, sizeof(text) - 1)) > 0 || errno == EPIPE) {
		text[n > 0 ? n : 0] = 0;
		if (n > 0 && (atoi(text) & 7) < 6 && !strstr(text, "MCE: Killing"))
			fail("the kernel says: %s", text);
		at = strstr(text, ": ");
		at = at ? strstr(text, "went to system memory") : NULL;
		if (!at)
			continue;
		at = strrchr(strtok(text, "\n"), ':');
		if (sscanf(at, ": %lu pages went to system memory, %lu are lost", &s, &l) != 2)
			fail("what is this? %s", at);
		*saved += s;
		*lost += l;
		cards--;
	}
	if (cards)
		fail("%d removals are missing in the log: is it too small?", cards);
}

static void card_there(struct control *c, unsigned int s)
{
	count(&shared->joins, 1);
	card_close(&cards[s]);
	store(&shared->slots[s].calm, load(&shared->calm));
	store(&shared->slots[s].device, ++c->serial << 32 | cards[s].dev.minor);
}

/* A card goes, and comes back. */
static void card_cycle(struct control *c, bool lossy)
{
	static const enum way ways[2][4] = {
		{ UNBIND, REMOVE, POWER, BUTTON }, { TEAR, TEAR, TEAR, DIE },
	};
	unsigned int s = chance(c, NR_CARDS), how = chance(c, 4);
	enum way way = ways[lossy][how];
	unsigned long saved, lost;

	usleep(chance(c, 1000000));
	count(&shared->slots[s].leaves, 1);
	count(&shared->troubles, lossy);
	if (!card_go(&cards[s], way))
		fail("card %u does not go, way %d", s, way);
	if (!card_wait(&cards[s], false))
		fail("card %u stays, way %d", s, way);
	store(&shared->slots[s].device, 0);
	count(&shared->calm, lossy);
	count(&shared->slots[s].left, 1);
	cards_log(1, &saved, &lost);
	count(&shared->evacuated, saved);
	count(&shared->poisoned, lost);
	if (!lossy && lost)
		fail("%lu pages were lost by an orderly removal, way %d", lost, way);
	count(lossy ? &shared->losses : &shared->leaves, 1);

	usleep(chance(c, 200000));
	if (!card_back(&cards[s], way))
		fail("card %u does not come back, way %d", s, way);
	card_there(c, s);
}

static void cards_main(struct control *c)
{
	unsigned long saved, lost;
	unsigned int s;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	shared->actors[0].pid = getpid();
	c->random = dm_mix(~shared->seed);
	cards_log(0, &saved, &lost);
	for (s = 0; s < NR_CARDS; s++) {
		if (!(card_find(&cards[s]) ? card_use(&cards[s]) : card_plug(&cards[s], "")))
			fail("card %u can't be plugged", s);
		card_there(c, s);
	}
	while (!load(&shared->quiet)) {
		if (!load(&shared->stop)) {
			card_cycle(c, false);
			card_cycle(c, c->lossy);
			count(&shared->changes, 1);
		}
		shared->actors[0].steps++;
		usleep(PACE);
	}
	for (s = 0; s < NR_CARDS; s++)
		if (!card_go(&cards[s], UNBIND))
			fail("card %u can't be removed", s);
	cards_log(NR_CARDS, &saved, &lost);
	if (saved || lost)
		fail("%lu pages of devices are left that nobody uses", saved + lost);
	_exit(0);
}

/* A process that makes memory short. The workers get theirs back when they use it. */
static void squeeze_main(void)
{
	__u64 random = dm_mix(shared->seed ^ dm_mix(MAX_WORKERS));

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	/* Not at the end, when everything is checked: that would take long. */
	while (!load(&shared->stop)) {
		usleep(dm_rnd(&random) % SQUEEZE_PACE);
		dm_file_put(CGROUP "/memory.reclaim", SQUEEZE);
		count(&shared->squeezes, 1);
	}
	for (;;)
		pause();
}

/* --- all of it --- */

static struct {
	pid_t control, squeeze, worker[MAX_WORKERS];
	unsigned long life[MAX_WORKERS];
	unsigned int nr;
	/* For the watchdog. */
	unsigned long seen[1 + MAX_WORKERS];
	time_t when[1 + MAX_WORKERS];
} all;

static void summary(long seconds)
{
	say("soak: seed %llu, %ld s: %lu changes (%lu refused), ", shared->seed, seconds,
	    shared->changes, shared->refused);
	say("%lu leaves, %lu joins, %lu losses, %lu forced, ", shared->leaves,
	    shared->joins, shared->losses, shared->forced);
	say("%lu evictions, %lu forks, %lu exits, %lu times short of memory; ",
	    shared->evictions, shared->forks, shared->exits, shared->squeezes);
	say("%llu bytes checked, %llu wrong, %llu stale, %lu lost pages seen\n",
	    shared->checked, shared->wrong, shared->stale, shared->lost);
}

static void cards_summary(void)
{
	say("hotplug: seed %llu: %lu cards removed, %lu torn out; ", shared->seed,
	    shared->leaves, shared->losses);
	say("%llu bytes checked, %lu pages evacuated, %lu pages lost, ", shared->checked,
	    shared->evacuated, shared->poisoned);
	say("%lu SIGBUS for %lu lost pages touched, %llu stale bytes, %llu wrong\n",
	    shared->sigbus, shared->lost, shared->stale, shared->wrong);
}

static void start_worker(unsigned int w)
{
	all.life[w]++;
	all.worker[w] = fork();
	if (all.worker[w] < 0)
		complain("fork: %s", strerror(errno));
	if (!all.worker[w]) {
		if (!dm_file_put(CGROUP "/cgroup.procs", "0"))
			fail("it can't be put into " CGROUP);
		worker_main(w, all.life[w]);
	}
}

/*
 * Has anybody ended? Returns whether all have, save the controller: workers, and
 * children of workers that ended before them.
 */
static bool reap(void)
{
	unsigned int w;
	int status;
	pid_t pid;

	if (waitpid(all.control, &status, WNOHANG) == all.control) {
		all.control = 0;
		if (status && !load(&shared->failed))
			complain("the controller ends with status %#x", status);
	}
	while ((pid = waitpid(0, &status, WNOHANG)) > 0) {
		for (w = 0; w < all.nr && all.worker[w] != pid; w++)
			;
		if (status && !load(&shared->failed) &&
		    !(w < all.nr && load(&shared->killed[w]) &&
		      WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
			complain("process %d ends with status %#x", pid, status);
		if (w == all.nr)
			continue;
		count(&shared->exits, 1);
		store(&shared->killed[w], false);
		shared->actors[1 + w].pid = 0;
		if (!load(&shared->stop) && !load(&shared->failed))
			start_worker(w);
	}
	return pid < 0;
}

static void watch(time_t now)
{
	unsigned int i;

	for (i = 0; i <= all.nr; i++) {
		if (!shared->actors[i].pid || !all.when[i] ||
		    shared->actors[i].steps != all.seen[i]) {
			all.seen[i] = shared->actors[i].steps;
			all.when[i] = now;
		} else if (now - all.when[i] > WATCHDOG) {
			complain("actor %u, process %d, does not go on", i,
				 shared->actors[i].pid);
			dm_say_stacks();
			return;
		}
	}
}

int main(int argc, char **argv)
{
	time_t start = time(NULL), said = start, stopped = 0, now = start;
	static const char names[] = "smcpdLC";
	/* The seed, minutes, changes, processes, devices, losses, cards. */
	double args[] = { dm_mix(start ^ getpid()) % 1000000, 1, 0, 2, 6, 1, 0 };
	char *end = "", *at;
	unsigned int w;
	int opt;

	while ((opt = getopt(argc, argv, "s:m:c:p:d:L:C:")) != -1) {
		at = strchr(names, opt);
		end = "?";
		if (at)
			args[at - names] = strtod(optarg, &end);
		if (*end)
			break;
	}
	if (*end || args[3] < 1 || args[3] > MAX_WORKERS || args[4] < 1 || args[4] > MAX_DEVS) {
		say("usage: %s [-s seed] [-m minutes | -c changes] [-p processes] ", argv[0]);
		say("[-d devices] [-L 0|1] [-C 0|1]\n");
		return 1;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	shared->seed = args[0];
	all.nr = args[3];
	control.max = args[4];
	control.lossy = args[5];

	control.ctl = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);
	if (control.ctl < 0) {
		say("%s: %s\n", DEVMEM_CTL_PATH, strerror(errno));
		return KSFT_SKIP;
	}
	dm_file_put("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if ((mkdir(CGROUP, 0755) && errno != EEXIST) ||
	    access(CGROUP "/memory.reclaim", W_OK) || dm_swap_on(SWAP)) {
		say("memory can't be made short: this takes cgroup v2 at /sys/fs/cgroup,\n"
		    "CONFIG_MEMCG, CONFIG_SWAP, and %s of %lu MiB\n", DM_SWAP, SWAP / DM_MIB);
		return KSFT_SKIP;
	}
	say("soak: seed %llu, %u processes, up to %u devices\n", shared->seed, all.nr,
	    control.max);

	/* Children whose parent ends before them come to us. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	all.control = fork();
	if (!all.control)
		args[6] ? cards_main(&control) : control_main(&control);
	close(control.ctl);
	all.squeeze = fork();
	if (!all.squeeze)
		squeeze_main();
	if (all.control < 0 || all.squeeze < 0)
		complain("fork: %s", strerror(errno));
	for (w = 0; w < all.nr; w++)
		start_worker(w);

	while (all.control && !load(&shared->failed)) {
		usleep(100000);
		now = time(NULL);
		watch(now);
		if (reap() && stopped)
			store(&shared->quiet, true);
		if (now - said >= PROGRESS) {
			said = now;
			summary(now - start);
		}
		if (!stopped && (args[2] ? load(&shared->changes) >= args[2] :
				 now - start >= args[1] * 60)) {
			stopped = now;
			store(&shared->stop, true);
		}
		/* Each lost page takes its time then: the kernel says so on the console. */
		if (stopped && !load(&shared->quiet) && now - stopped > 4 * WATCHDOG) {
			complain("not all processes end");
			dm_say_stacks();
		}
	}
	if (all.squeeze > 0)
		kill(all.squeeze, SIGKILL);
	/* If it failed, what else is left of our children is killed when we are gone. */
	say("soak: %lu pages held, %lu evacuated, %lu poisoned, %llu leaked; ", shared->held,
	    shared->evacuated, shared->poisoned, shared->leaked);
	say("%lu errors had an excuse\n", shared->excused);
	summary(now - start);
	if (args[6])
		cards_summary();
	/* Who is killed may have been between the two. */
	if (shared->sigbus < shared->lost ||
	    shared->sigbus > shared->lost + shared->exits * THREADS)
		complain("%lu pages were lost, and there were %lu SIGBUS", shared->lost,
			 shared->sigbus);
	swapoff(DM_SWAP);
	return load(&shared->failed) || load(&shared->suspect) || shared->leaked;
}
