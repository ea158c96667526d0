// SPDX-License-Identifier: GPL-2.0
/*
 * Soak test: the workers, which use memory on devices, and the process that makes memory
 * short.
 */
#define _GNU_SOURCE
#include <sys/wait.h>
#include <time.h>

#include "devmem_soak.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

/* Steps of a worker's first thread, with which the worker ends. */
#define LIFE_MIN	50
#define LIFE_MAX	800
/* Memory that the workers have to give back at once, and how often, in microseconds. */
#define SQUEEZE		"4M"
#define SQUEEZE_PACE	1000000

static struct thread threads[THREADS];
static struct dm_area arena;
static bool done;
/* Held for read by threads that use the memory; for write to fork while no thread does. */
static pthread_rwlock_t in_use;

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
		t->leaves = load(&shared->slots[s].leaves.ended);
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
		if (device && !happened_since(&shared->slots[s].leaves, t->leaves))
			fail("cannot open device %u: %s", s, strerror(-file->fd));
		file->fd = -1;
	}
	return -1;
}

/* Is there an excuse for an error of the device? */
static bool excused(struct thread *t, int err)
{
	unsigned int s = t->slot;

	count(&shared->excused, 1);
	if (err == -ENODEV)
		return happened_since(&shared->slots[s].leaves, t->leaves) ||
		       load(&shared->slots[s].device) != t->files[s].device;
	if (err == -EIO)
		return happened_since(&shared->deaths, t->deaths);
	return err == -EBUSY || err == -ENOMEM;
}

/* A device has computed a wrong checksum. Find the pages that are wrong. */
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
	say("soak: device %u finds pages %zu+%zu wrong: %zu stale, %zu other; and the CPU:\n",
	    t->slot, p, n, stale, wrong);
	do_check(t, p, n);
	/* The pages that are wrong, or were wrong only once. */
	count(&shared->stale, stale * DM_PAGE);
	count(&shared->wrong, wrong * DM_PAGE ?: !stale);
	fail("the CPU finds no wrong page");
}

static const char * const ops[] = { "fill", "copy", "sum", "add" };

/* A command has done @nr pages. Returns what it has added to its checksum. */
static __u64 exec_done(struct thread *t, const struct devmem_exec *exec, size_t p, size_t q,
		       size_t nr)
{
	const __u64 step = !!(exec->flags & DEVMEM_EXEC_COUNT);
	__u64 sum = 0;
	size_t k;

	for (k = 0; k < nr; k++, p++, q++) {
		struct content *to = t->m.pages[p].is, *from = t->m.pages[q].is;

		if (exec->op == DEVMEM_OP_FILL)
			page_is(t, p, exec->value + k * PAGE_WORDS * step, step);
		else if (exec->op == DEVMEM_OP_COPY)
			page_is(t, p, from->base, from->step);
		else if (exec->op == DEVMEM_OP_ATOMIC_ADD)
			page_is(t, p, to->base + exec->value, to->step);
		else
			sum += content_sum(from, k * PAGE_WORDS);
	}
	return sum;
}

/*
 * A command for any device. If the device fails with an excuse, another device does the
 * remainder; if there is none, the remainder is not done.
 */
static void do_exec(struct thread *t, __u32 op, size_t p, size_t q, size_t n)
{
	const bool writes = op != DEVMEM_OP_CHECKSUM;
	const bool reads = op == DEVMEM_OP_COPY || !writes;
	const __u64 step = op == DEVMEM_OP_FILL ? chance(t, 2) : 0;
	const __u64 value = fresh(t);
	size_t i = 0, nr;

	while (i < n) {
		struct devmem_exec exec = { .op = op, .flags = step ? DEVMEM_EXEC_COUNT : 0,
					    .len = (n - i) * DM_PAGE };
		int fd = any_file(t), err;
		bool fine, lost = false;
		__u64 sum;

		if (fd < 0)
			return;
		if (writes)
			exec.dst = (unsigned long)page(t, p + i);
		if (reads)
			exec.src = (unsigned long)page(t, q + i);
		else
			exec.value = value + i * PAGE_WORDS * step;
		err = dm_exec(fd, &exec);
		note(t, ops[op], writes ? p + i : q, n - i, err);
		fine = !err || err == -EFAULT || excused(t, err);

		nr = exec.done / DM_PAGE;
		sum = exec_done(t, &exec, p + i, q + i, nr);
		/* Also of pages that were read before an error. */
		if (!writes && exec.result != sum)
			sum_wrong(t, fd, q + i, nr);
		count(&shared->checked, writes ? 0 : nr * DM_PAGE);
		i += nr;

		if (exec.done % DM_PAGE)	/* part of an addition */
			do_write(t, p + i++, 1);
		else if (err == -EFAULT)	/* one or both must be lost */
			lost = any_lost(t, q + i, reads, p + i, writes);
		if (!fine || (err == -EFAULT && !lost && !(exec.done % DM_PAGE)))
			fail("%s: %s after %llu bytes", ops[op], strerror(-err), exec.done);
		/* The controller needs the CPU, too. */
		if (err)
			usleep(500);
	}
}

/* Move pages to any device or to system memory; from @wide on, pages of all threads. */
static void do_migrate(struct thread *t, void *wide, size_t p, size_t n, __u32 flags)
{
	bool system = flags == DEVMEM_MIGRATE_TO_SYSTEM, good = true;
	int fd = any_file(t), err;

	if (fd < 0)
		return;
	err = dm_migrate(fd, wide ?: page(t, p), n * DM_PAGE, flags);
	note(t, system ? "to system" : wide ? "wide" : "to device", p, n, err);
	if (err >= 0 || (err == -ENOSPC && !system))
		return;
	/* Or the device where a page was is lost. */
	if (err == -ENODEV && happened_since(&shared->losses, t->losses))
		return;
	if (err != -EBUSY || system)
		good = !excused(t, err);
	/* Other threads make holes, this one does not. So a page must be lost. */
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

/* The kernel holds a page for a while. */
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

	/* To an address where huge pages can stay whole, or to any. */
	to += chance(t, 2) ? (unsigned long)from % DM_HUGE : chance(t, 512) * DM_PAGE;
	/* Neither call leaves a hole that another thread could map memory in. */
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

/* The child of a fork has only this one of all threads. */
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

/* The parent goes on, and waits for the child before its next fork. */
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

/* One action at random. */
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
		/* From one half to the other, as the ranges must not overlap. */
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
		/* This can fail for many reasons. The contents must stay. */
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
		/* Independent of the numbers that earlier steps have drawn. */
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
	/* The first thread decides how all of them end. */
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
		m->pages[p].losses = load(&shared->losses.ended);
	madvise(at, len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

void worker_main(unsigned int worker, unsigned long life)
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

/* --- memory is short --- */

/* A process that makes memory short. The workers get theirs back when they use it. */
void squeeze_main(void)
{
	__u64 random = dm_mix(shared->seed ^ dm_mix(MAX_WORKERS));

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	/* Not at the end, when all pages are checked: that would take long. */
	while (!load(&shared->stop)) {
		usleep(dm_rnd(&random) % SQUEEZE_PACE);
		dm_file_put(CGROUP "/memory.reclaim", SQUEEZE);
		count(&shared->squeezes, 1);
	}
	for (;;)
		pause();
}
