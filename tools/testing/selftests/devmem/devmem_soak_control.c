// SPDX-License-Identifier: GPL-2.0
/*
 * Soak test: the controller, which changes the topology of virtual GPUs all the time.
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>

#include "devmem_soak.h"

/* Longest pause between two changes, in microseconds. */
#define PACE		10000

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

/* Check what must hold at any time. */
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
		    (stats.link_errors &&
		     !happened_since(&shared->deaths, shared->slots[s].deaths)))
			fail("device %u (%d): %llu violations, %llu link errors, %lu deaths",
			     s, err, stats.violations, stats.link_errors,
			     shared->deaths.begun - shared->slots[s].deaths);
		c->evictions[s] = stats.evictions;
	}
}

/* A request has returned. If it failed, nothing has changed. */
static void settle(struct control *c, const char *what, int err)
{
	struct devmem_topology_entry before[DEVMEM_MAX_DEVICES];
	unsigned int i;

	count(err ? &shared->refused : &shared->changes, 1);
	if (err && err != -EBUSY && err != -ENOMEM &&
	    !(c->racing && (err == -EIO || err == -ENOENT)))
		fail("%s: %s", what, strerror(-err));
	/* The other change is still under way. */
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
		store(&shared->slots[s].deaths, load(&shared->deaths.ended));
		store(&shared->slots[s].device, ++c->serial << 32 | c->dev[s].minor);
		count(&shared->joins, 1);
	}
	settle(c, "CREATE", err);
}

/* Remove a device. If @flags is set, repeat it until the device is gone. Any thread. */
static int leave(struct control *c, unsigned int s, __u32 flags, __u32 timeout)
{
	time_t end = time(NULL) + WATCHDOG / 2;
	struct devmem_op_stats stats;
	int err;

	count(&shared->slots[s].leaves.begun, 1);
	count(&shared->losses.begun, !!flags);
	count(&shared->deaths.begun, !!flags);
	do {
		err = dm_destroy_within(c->ctl, c->dev[s].id, flags, timeout, &stats);
		count(&shared->poisoned, stats.pages_poisoned);
		if (!flags && !c->racing && stats.pages_poisoned)
			fail("%llu pages were lost by a planned DESTROY", stats.pages_poisoned);
	} while (flags && err == -EBUSY && time(NULL) < end && !usleep(1000));
	if (!err)
		store(&shared->slots[s].device, 0);
	count(&shared->losses.ended, !!flags);
	count(&shared->deaths.ended, !!flags);
	count(&shared->slots[s].leaves.ended, 1);
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

/* Any request for links that changes at least one. */
static unsigned int any_links(struct control *c, struct devmem_link *links)
{
	unsigned int mask = chance(c, 1U << MAX_DEVS), how = chance(c, 6), nr = 0, a, b;
	bool changes = false, up;

	for (a = 0; a < MAX_DEVS; a++) {
		for (b = a + 1; b < MAX_DEVS; b++) {
			if (c->dev[a].fd < 0 || c->dev[b].fd < 0 ||
			    (how > 1 && chance(c, how)))
				continue;
			/* Two parts, or all links, or some at random. */
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

/*
 * Change links. The only error is that of a request for which there is no memory. Pages that
 * cannot be moved are left over; a change of links copies and loses nothing.
 */
static void do_links(struct control *c, __u32 flags)
{
	struct devmem_link links[MAX_DEVS * MAX_DEVS];
	unsigned int nr = any_links(c, links), timeout = any_timeout(c, flags), i;
	time_t end = time(NULL) + WATCHDOG / 2;
	struct devmem_op_stats stats;
	int err;

	if (!nr)
		return;
	count(&shared->deaths.begun, !!flags);
	do {
		err = dm_links_within(c->ctl, links, nr, flags, timeout, &stats);
		if (err && err != -ENOMEM && !(c->racing && err == -ENOENT))
			fail("LINK: %s", strerror(-err));
		if (stats.bytes_copied || stats.pages_evacuated || stats.pages_poisoned)
			fail("LINK: %llu bytes copied, %llu pages moved, %llu pages lost",
			     stats.bytes_copied, stats.pages_evacuated, stats.pages_poisoned);
		count(&shared->left, stats.pages_left);
	} while (flags && err && time(NULL) < end && !usleep(1000));
	if (flags && err)
		fail("forced LINK: %s", strerror(-err));
	count(&shared->deaths.ended, !!flags);
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

/* Move a page to each device. */
static void guards_put(struct control *c)
{
	unsigned int s;

	for (s = 0; s < MAX_DEVS; s++) {
		dm_block_write(&c->guards, s, dm_fresh(s, c->serial, c->guards.base[s]));
		/* If there is no room for it, it is safe in system memory. */
		if (c->dev[s].fd >= 0)
			dm_migrate(c->dev[s].fd, dm_block(&c->guards, s), DM_PAGE,
				   DEVMEM_MIGRATE_TO_DEVICE);
	}
}

/* Pages that were not on the device that is gone are as before. */
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
		gone(c, c->loss, &shared->lost_devices);
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

void control_main(struct control *c)
{
	__u64 seed = dm_mix(~shared->seed), step;
	unsigned int s;
	time_t end;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The first process waits for the workers by their group. */
	setpgid(0, 0);
	/* There is one controller, and there are many workers. */
	setpriority(PRIO_PROCESS, 0, -10);
	shared->actors[0].pid = getpid();
	for (s = 0; s < MAX_DEVS; s++)
		c->dev[s].fd = -1;
	if (dm_area_init(&c->guards, MAX_DEVS * DM_PAGE, DM_PAGE, false))
		fail("no memory");
	look(c);
	for (step = 0; !load(&shared->quiet); step++) {
		c->random = dm_mix(seed + dm_mix(step));
		/* Workers that end still need devices. */
		if (!load(&shared->stop))
			control_step(c);
		shared->actors[0].steps++;
		usleep(chance(c, PACE));
	}

	/* No process uses devices any more. Work items free the last pages. */
	end = time(NULL) + PROGRESS;
	do {
		usleep(10000);
		look(c);
		for (s = 0, shared->leaked = 0; s < c->nr; s++)
			shared->leaked += c->topo[s].resident_pages;
	} while ((shared->leaked || dm_pages_left(c->ctl)) && time(NULL) < end);
	if (shared->leaked)
		fail("%llu pages of devices are not free, but no process uses them",
		     shared->leaked);
	if (dm_pages_left(c->ctl))
		fail("%ld pages are left over", dm_pages_left(c->ctl));
	for (s = 0; s < MAX_DEVS; s++)
		if (c->dev[s].fd >= 0 && do_leave(c, s, 0, 0))
			fail("device %u cannot be removed", s);
	_exit(0);
}
