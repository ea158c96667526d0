/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Load for tests on virtual GPUs: threads that write and check memory through all devices
 * while the topology changes.
 */
#ifndef _DEVMEM_LOAD_H_
#define _DEVMEM_LOAD_H_

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdarg.h>

#include "devmem_world.h"

/* Each thread has a stripe of the memory. */
#define LOAD_THREADS	4
#define LOAD_STRIPE	(DM_ALL ? DM_MIB : DM_MIB / 2)
#define LOAD_BLOCK	(16 * 1024UL)
/* Blocks at the start of a stripe that are used more often. */
#define LOAD_HOT	4
#define LOAD_ROUNDS	(DM_ALL ? 4 : 2)
/* Steps of the load before the next change of the topology. */
#define LOAD_STEPS	(DM_ALL ? 40U : 12U)

/* Errors that commands of the load may meet. */
#define LOAD_DEVICES_LEAVE	1	/* ENODEV; and ENOSPC for a page that moves there */
#define LOAD_LINKS_DIE		2	/* EIO */

/**
 * struct load - threads at work
 * @area: the memory; each thread has a stripe of it
 * @minors: render minors of the devices that can be used, or -1
 * @allowed: LOAD_*
 * @stop: set at the end
 * @failed: a thread has failed
 * @steps: posted for each step of a thread
 * @threads: the threads
 */
struct load {
	struct dm_area area;
	int minors[MAX_DEVS];
	unsigned int allowed;
	bool stop, failed;
	sem_t steps;
	struct load_thread {
		pthread_t thread;
		struct load *load;
		unsigned int index;
		__u64 random;
		__u64 generation;
		/* Own files, hence own address spaces of the devices. */
		int minors[MAX_DEVS];
		int fds[MAX_DEVS];
		/* For the log. */
		unsigned long nr_steps, nr_device, nr_gone, nr_dead, nr_busy;
		/* What went wrong, or empty. */
		char error[160];
	} threads[LOAD_THREADS];
};

static inline __printf(2, 3) bool load_fail(struct load_thread *t, const char *format, ...)
{
	va_list args;

	if (!t->error[0]) {
		va_start(args, format);
		vsnprintf(t->error, sizeof(t->error), format, args);
		va_end(args);
	}
	return false;
}

/* A file of any device that is there, or -1. */
static inline int load_device(struct load_thread *t)
{
	unsigned int first = dm_rnd(&t->random) % MAX_DEVS, i, d;

	for (i = 0; i < MAX_DEVS; i++) {
		int minor;

		d = (first + i) % MAX_DEVS;
		minor = __atomic_load_n(&t->load->minors[d], __ATOMIC_ACQUIRE);
		if (minor != t->minors[d] && t->fds[d] >= 0) {
			close(t->fds[d]);
			t->fds[d] = -1;
		}
		t->minors[d] = minor;
		if (minor < 0)
			continue;
		if (t->fds[d] < 0)
			t->fds[d] = dm_open(minor);
		if (t->fds[d] >= 0)
			return t->fds[d];
		if (!(t->load->allowed & LOAD_DEVICES_LEAVE))
			load_fail(t, "cannot open renderD%d: %s", minor,
				  strerror(-t->fds[d]));
		t->fds[d] = -1;
	}
	return -1;
}

/* May a command fail like this? */
static inline bool load_error(struct load_thread *t, const struct devmem_exec *part, int err,
			      unsigned int *busy)
{
	if (err == -ENODEV && t->load->allowed & LOAD_DEVICES_LEAVE) {
		t->nr_gone++;
		return true;
	}
	if (err == -EIO && t->load->allowed & LOAD_LINKS_DIE) {
		t->nr_dead++;
		return true;
	}
	if (err == -EBUSY && (*busy)++ < 3) {
		t->nr_busy++;
		return true;
	}
	return load_fail(t, "EXEC %u of %#llx: %s after %llu bytes", part->op,
			 part->op == DEVMEM_OP_CHECKSUM ? part->src : part->dst,
			 strerror(-err), part->done);
}

/*
 * Run a command on some device. If the device leaves or its link dies, another device does
 * the remainder. 1: there is no device. -1: the command failed.
 */
static inline int load_exec(struct load_thread *t, struct devmem_exec *exec)
{
	struct devmem_exec part = *exec;
	unsigned int busy = 0;

	for (;;) {
		int fd = load_device(t), err;

		if (fd < 0)
			return t->error[0] ? -1 : 1;

		part.done = 0;
		err = dm_exec(fd, &part);
		if (!err) {
			exec->result = part.result;
			t->nr_device++;
			return 0;
		}
		if (!load_error(t, &part, err, &busy))
			return -1;

		/* The thread that changes the topology needs the CPU, too. */
		sched_yield();
		/* A checksum begins anew. */
		if (part.op == DEVMEM_OP_CHECKSUM)
			continue;
		if (part.done >= part.len) {
			load_fail(t, "EXEC %u: %s, but all was done", part.op,
				  strerror(-err));
			return -1;
		}
		part.dst += part.done;
		if (part.op == DEVMEM_OP_COPY)
			part.src += part.done;
		if (part.op == DEVMEM_OP_FILL)
			part.value += part.done / DM_WORD;
		part.len -= part.done;
	}
}

static inline int load_fill(struct load_thread *t, size_t b, __u64 base)
{
	struct dm_area *area = &t->load->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_FILL,
		.flags = DEVMEM_EXEC_COUNT,
		.dst = (__u64)(unsigned long)dm_block(area, b),
		.len = area->block,
		.value = base,
	};
	int ret = load_exec(t, &exec);

	if (!ret)
		area->base[b] = base;
	return ret;
}

static inline int load_add(struct load_thread *t, size_t b, __u64 value)
{
	struct dm_area *area = &t->load->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_ATOMIC_ADD,
		.dst = (__u64)(unsigned long)dm_block(area, b),
		.len = area->block,
		.value = value,
	};
	int ret = load_exec(t, &exec);

	if (!ret)
		area->base[b] += value;
	return ret;
}

/* Copy a block, and then add to the copy, so that no two blocks have the same contents. */
static inline int load_copy(struct load_thread *t, size_t to, size_t from, __u64 value)
{
	struct dm_area *area = &t->load->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_COPY,
		.dst = (__u64)(unsigned long)dm_block(area, to),
		.src = (__u64)(unsigned long)dm_block(area, from),
		.len = area->block,
	};
	int ret;

	if (to == from)
		return 0;
	ret = load_exec(t, &exec);
	if (!ret) {
		area->base[to] = area->base[from];
		ret = load_add(t, to, value);
	}
	if (ret == 1)
		dm_block_write(area, to, ~value);
	return ret;
}

static inline int load_sum(struct load_thread *t, size_t b)
{
	struct dm_area *area = &t->load->area;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_CHECKSUM,
		.src = (__u64)(unsigned long)dm_block(area, b),
		.len = area->block,
	};
	int ret = load_exec(t, &exec);

	if (!ret && exec.result != dm_area_sum(area, b, 1)) {
		load_fail(t, "block %zu: a device reads something else", b);
		return -1;
	}
	return ret;
}

/* Move pages to some device, or to system memory. */
static inline int load_migrate(struct load_thread *t, void *addr, size_t len, __u32 flags)
{
	int fd = load_device(t);
	long pages;

	if (fd < 0)
		return t->error[0] ? -1 : 1;
	pages = dm_migrate(fd, addr, len, flags);
	if (pages >= 0)
		return 0;
	if (t->load->allowed & LOAD_DEVICES_LEAVE &&
	    (pages == -ENODEV || pages == -ENOSPC)) {
		t->nr_gone++;
		return 0;
	}
	/* A copy between two devices. A link that dies takes no memory away. */
	if (t->load->allowed & LOAD_LINKS_DIE && pages == -EIO) {
		t->nr_dead++;
		return 0;
	}
	/* Other threads use the pages. */
	if (flags == DEVMEM_MIGRATE_TO_SYSTEM && pages == -EBUSY) {
		t->nr_busy++;
		return 0;
	}
	load_fail(t, "MIGRATE to %s: %s", flags == DEVMEM_MIGRATE_TO_DEVICE ?
		  "device" : "system", strerror(-pages));
	return -1;
}

static inline bool load_check_cpu(struct load_thread *t, size_t b)
{
	size_t wrong = dm_block_wrong(&t->load->area, b);

	if (wrong)
		load_fail(t, "block %zu: CPU reads %zu wrong bytes", b, wrong);
	return !wrong;
}

static inline size_t load_block(struct load_thread *t)
{
	size_t per = LOAD_STRIPE / LOAD_BLOCK;

	if (dm_rnd(&t->random) % 4)
		per = LOAD_HOT;
	return t->index * (LOAD_STRIPE / LOAD_BLOCK) + dm_rnd(&t->random) % per;
}

/* One action at random with one block of the thread's stripe. */
static inline bool load_step(struct load_thread *t)
{
	struct dm_area *area = &t->load->area;
	size_t b = load_block(t), other = load_block(t);
	__u64 fresh = dm_fresh(b, t->index, ++t->generation);
	int ret = 0;

	switch (dm_rnd(&t->random) % 32) {
	case 0 ... 1:
		dm_block_write(area, b, fresh);
		break;
	case 2:
		return load_check_cpu(t, b);
	case 3 ... 9:
		ret = load_fill(t, b, fresh);
		break;
	case 10 ... 15:
		ret = load_add(t, b, fresh);
		break;
	case 16 ... 23:
		ret = load_sum(t, b);
		break;
	case 24 ... 25:
		ret = load_copy(t, other, b, fresh);
		break;
	case 26 ... 29:
		ret = load_migrate(t, dm_block(area, b), area->block,
				   DEVMEM_MIGRATE_TO_DEVICE);
		break;
	case 30:
		/* A whole huge page, which is part of other stripes, too. */
		ret = load_migrate(t, area->mem + b * area->block / DM_HUGE * DM_HUGE,
				   DM_HUGE, DEVMEM_MIGRATE_TO_DEVICE);
		break;
	case 31:
		ret = load_migrate(t, dm_block(area, b), area->block,
				   DEVMEM_MIGRATE_TO_SYSTEM);
		break;
	}
	/* There is no device, so the CPU writes. */
	if (ret == 1)
		dm_block_write(area, b, fresh);
	return ret >= 0;
}

static inline void *load_main(void *arg)
{
	struct load_thread *t = arg;
	size_t per = LOAD_STRIPE / LOAD_BLOCK, b;
	unsigned int d;

	while (!__atomic_load_n(&t->load->stop, __ATOMIC_ACQUIRE) && load_step(t)) {
		t->nr_steps++;
		sem_post(&t->load->steps);
	}
	if (t->error[0])
		__atomic_store_n(&t->load->failed, true, __ATOMIC_RELEASE);

	for (b = t->index * per; b < (t->index + 1) * per && !t->error[0]; b++)
		if (load_sum(t, b) >= 0)
			load_check_cpu(t, b);
	for (d = 0; d < MAX_DEVS; d++)
		if (t->fds[d] >= 0)
			close(t->fds[d]);
	return NULL;
}

static inline void load_publish(struct load *load, struct world *w, unsigned int d, bool there)
{
	__atomic_store_n(&load->minors[d], there ? (int)w->dev[d].minor : -1,
			 __ATOMIC_RELEASE);
}

static inline void load_start(struct __test_metadata *_metadata, struct load *load,
			      struct world *w, unsigned int allowed)
{
	unsigned int i, d;
	size_t b, per;

	TH_LOG("seed %#llx", seed());
	memset(load, 0, sizeof(*load));
	load->allowed = allowed;
	ASSERT_EQ(0, sem_init(&load->steps, 0, 0));
	area_init(_metadata, &load->area, LOAD_THREADS * LOAD_STRIPE, LOAD_BLOCK,
		  true);
	area_write(w, &load->area, 0, load->area.nr);
	/* One huge page of it to every other device. */
	per = DM_HUGE / LOAD_BLOCK;
	for (b = 0; b < load->area.nr; b += per)
		area_put(_metadata, &load->area, b, per,
			 &w->dev[b / per * 2 % w->nr]);

	for (d = 0; d < MAX_DEVS; d++)
		load_publish(load, w, d, d < w->nr && w->dev[d].fd >= 0);
	for (i = 0; i < LOAD_THREADS; i++) {
		struct load_thread *t = &load->threads[i];

		t->load = load;
		t->index = i;
		t->random = dm_mix(seed() + i);
		for (d = 0; d < MAX_DEVS; d++) {
			t->minors[d] = -1;
			t->fds[d] = -1;
		}
		ASSERT_EQ(0, pthread_create(&t->thread, NULL, load_main, t));
	}
}

/* Wait for LOAD_STEPS steps of the threads; false if a thread has failed. */
static inline bool load_progress(struct load *load)
{
	struct timespec end;
	unsigned int i = 0;

	while (!sem_trywait(&load->steps))
		;
	while (i < LOAD_STEPS) {
		/* Look for a failure now and then. The only limit is that of the test. */
		clock_gettime(CLOCK_REALTIME, &end);
		end.tv_sec++;
		if (!sem_timedwait(&load->steps, &end))
			i++;
		else if (__atomic_load_n(&load->failed, __ATOMIC_ACQUIRE))
			return false;
	}
	return true;
}

/* End the load. Leftovers vanish, and the contents are right. */
static inline void load_end(struct __test_metadata *_metadata, struct load *load,
			    struct world *w)
{
	unsigned long steps = 0, device = 0, gone = 0, dead = 0, busy = 0;
	unsigned int i;

	__atomic_store_n(&load->stop, true, __ATOMIC_RELEASE);
	for (i = 0; i < LOAD_THREADS; i++) {
		struct load_thread *t = &load->threads[i];

		ASSERT_EQ(0, pthread_join(t->thread, NULL));
		EXPECT_STREQ("", t->error);
		steps += t->nr_steps;
		device += t->nr_device;
		gone += t->nr_gone;
		dead += t->nr_dead;
		busy += t->nr_busy;
	}
	TH_LOG("%lu steps, %lu commands; device gone %lu, link dead %lu, busy %lu",
	       steps, device, gone, dead, busy);

	all_rehomed(_metadata, w);
	/* The threads have checked all of it; each device checks a part. */
	for (i = 0; i < w->nr; i++) {
		size_t nr = load->area.nr / w->nr;

		if (w->dev[i].fd >= 0)
			EXPECT_TRUE(area_seen(&load->area, i * nr, nr, w->dev[i].fd));
	}
	EXPECT_EQ(0, dm_area_wrong(&load->area, 0, load->area.nr));
	dm_area_fini(&load->area);
	sem_destroy(&load->steps);
}

#endif /* _DEVMEM_LOAD_H_ */
