// SPDX-License-Identifier: GPL-2.0
/*
 * Migration of a process' memory to a virtual GPU.
 */
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "devmem_drv.h"

/* How many allocations are pushed out at most to make room for one. */
#define DEVMEM_MAX_EVICTIONS	32

/* How long to wait for another device that migrates the same memory. */
#define DEVMEM_PIECE_TIMEOUT	(HZ / 2)

/* The sizes that are tried in turn when a piece cannot be migrated as a whole. */
static const unsigned long devmem_piece_sizes[] = {
	DEVMEM_HUGE_SIZE, SZ_64K, PAGE_SIZE,
};

/**
 * struct devmem_piece - memory that is being migrated to a device
 * @link: in devmem_pieces
 * @mm: whose memory it is
 * @start: first address
 * @end: end address, exclusive
 */
struct devmem_piece {
	struct list_head link;
	struct mm_struct *mm;
	unsigned long start, end;
};

/* The pieces under way. */
static DEFINE_SPINLOCK(devmem_pieces_lock);
static LIST_HEAD(devmem_pieces);
static DECLARE_WAIT_QUEUE_HEAD(devmem_pieces_wait);

static bool devmem_piece_try(struct devmem_piece *piece)
{
	struct devmem_piece *other;

	guard(spinlock)(&devmem_pieces_lock);
	list_for_each_entry(other, &devmem_pieces, link)
		if (other->mm == piece->mm && other->start < piece->end &&
		    piece->start < other->end)
			return false;
	list_add(&piece->link, &devmem_pieces);
	return true;
}

/*
 * Two devices that pull at the same memory at once find each other's pages locked, and each
 * would break its piece up into single pages. So they take turns. After some time a device
 * goes on nevertheless: then its pages are locked, and the piece is broken up.
 */
static void devmem_piece_begin(struct devmem_piece *piece)
{
	INIT_LIST_HEAD(&piece->link);
	wait_event_killable_timeout(devmem_pieces_wait, devmem_piece_try(piece),
				    DEVMEM_PIECE_TIMEOUT);
}

static void devmem_piece_end(struct devmem_piece *piece)
{
	spin_lock(&devmem_pieces_lock);
	list_del(&piece->link);
	spin_unlock(&devmem_pieces_lock);
	wake_up_all(&devmem_pieces_wait);
}

/* Migrate [start, end) as a whole, to whichever chunk has room. */
static int devmem_place_once(struct devmem_device *dev, struct mm_struct *mm,
			     unsigned long start, unsigned long end)
{
	unsigned int first = READ_ONCE(dev->next_chunk), i;
	int err;

	for (i = 0; i < dev->nr_chunks; i++) {
		unsigned int n = (first + i) % dev->nr_chunks;
		struct devmem_chunk *chunk = devmem_chunk_get(dev, n);

		if (!chunk)
			return -ENODEV;
		err = -ENOSPC;
		/* A hint: the allocator decides. */
		if (data_race(chunk->buddy.avail) >= end - start)
			err = drm_pagemap_populate_mm(&chunk->dpagemap, start, end, mm, 0);
		drm_pagemap_put(&chunk->dpagemap);
		/* -ENODEV: the chunk gives out no pages now. */
		if (err == -ENOSPC || err == -ENODEV)
			continue;
		if (!err)
			WRITE_ONCE(dev->next_chunk, n);
		return err;
	}
	return -ENOSPC;
}

/* The same. If there is no room, evict. */
static int devmem_place(struct devmem_device *dev, struct mm_struct *mm,
			unsigned long start, unsigned long end)
{
	unsigned int evictions = 0;
	bool flushed = false;
	int err;

	for (;;) {
		err = devmem_place_once(dev, mm, start, end);
		if (err != -ENOSPC)
			return err;
		/* What was released before shall be free before we evict. */
		if (!flushed) {
			flush_workqueue(devmem_wq);
			flushed = true;
			continue;
		}
		if (evictions++ == DEVMEM_MAX_EVICTIONS)
			return -ENOSPC;
		if (fatal_signal_pending(current))
			return -EINTR;
		err = devmem_mem_evict(dev);
		if (err)
			return err;
	}
}

/*
 * Are all pages of [start, end) here already? And are any on another device of the cluster?
 * A guess: they can move at any time.
 */
static bool devmem_is_local(struct devmem_device *dev, struct mm_struct *mm,
			    unsigned long start, unsigned long end, u32 *entries,
			    bool *foreign)
{
	unsigned long nr = (end - start) >> PAGE_SHIFT, i;
	bool local = true;

	*foreign = false;
	if (devmem_walk_query(&dev, 1, mm, start, nr, entries, NULL))
		return false;

	for (i = 0; i < nr; i++) {
		bool device = DEVMEM_PAGE_KIND(entries[i]) == DEVMEM_PAGE_DEVICE;

		if (device && DEVMEM_PAGE_ID(entries[i]) == dev->id)
			continue;
		local = false;
		*foreign |= device;
	}
	return local;
}

/* The part of [addr, end) that is one mapping, and whether it can move. */
static int devmem_movable_vma(struct mm_struct *mm, unsigned long addr,
			      unsigned long *end, bool *movable)
{
	struct vm_area_struct *vma;
	int err = 0;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	vma = vma_lookup(mm, addr);
	if (vma) {
		*end = min(*end, vma->vm_end);
		*movable = vma_is_anonymous(vma);
	} else {
		err = -EFAULT;
	}
	mmap_read_unlock(mm);

	return err;
}

static int devmem_piece_migrate(struct devmem_device *dev, struct mm_struct *mm,
				unsigned long start, unsigned long end, u32 *entries)
{
	struct devmem_piece piece = { .mm = mm, .start = start, .end = end };
	bool foreign;
	int err = 0;

	devmem_piece_begin(&piece);
	if (!devmem_is_local(dev, mm, start, end, entries, &foreign)) {
		/* Best effort: drm_pagemap does not copy from one device to another. */
		if (foreign)
			devmem_walk_to_system(mm, start, end);
		err = devmem_place(dev, mm, start, end);
	}
	devmem_piece_end(&piece);
	return err;
}

/*
 * -EBUSY: one of the pages could not be isolated; -ENOENT and -EINVAL: the mapping changed
 * meanwhile. Smaller pieces save the rest, and find free memory that is fragmented.
 */
static bool devmem_smaller_helps(int err)
{
	return err == -EBUSY || err == -ENOSPC || err == -ENOENT || err == -EINVAL;
}

/**
 * devmem_mem_migrate() - move pages to a device
 * @dev: the device
 * @mm: the current process'
 * @start: first address
 * @end: end address, exclusive
 *
 * Best effort: pages that can't be moved stay where they are.
 *
 * Context: May sleep. Takes mmap_lock, and waits for topology changes.
 * Return: 0, -ENOSPC if some page had no place on the device, -EFAULT if the
 *	   range has a hole, -EINTR, -ENOMEM or -ENODEV.
 */
int devmem_mem_migrate(struct devmem_device *dev, struct mm_struct *mm,
		       unsigned long start, unsigned long end)
{
	unsigned long addr = start, vma_end = start;
	unsigned int level = 0;
	bool movable = false;
	u32 *entries;
	int err = 0;

	entries = kvmalloc_objs(*entries, DEVMEM_HUGE_SIZE >> PAGE_SHIFT);
	if (!entries)
		return -ENOMEM;

	while (addr < end) {
		unsigned long size = devmem_piece_sizes[level];
		unsigned long stop;

		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}

		if (addr >= vma_end) {
			vma_end = end;
			err = devmem_movable_vma(mm, addr, &vma_end, &movable);
			if (err)
				break;
		}
		if (!movable) {
			addr = vma_end;
			continue;
		}

		stop = min(ALIGN_DOWN(addr, size) + size, vma_end);
		err = devmem_piece_migrate(dev, mm, addr, stop, entries);

		if (devmem_smaller_helps(err) && stop - addr > PAGE_SIZE) {
			do {
				level++;
			} while (devmem_piece_sizes[level] >= stop - addr);
			continue;
		}
		if (err && (err == -ENOSPC || !devmem_smaller_helps(err)))
			break;
		/* The mapping changed: look at it again. */
		if (err == -ENOENT || err == -EINVAL)
			vma_end = addr;
		err = 0;

		addr = stop;
		while (level && IS_ALIGNED(addr, devmem_piece_sizes[level - 1]))
			level--;
		cond_resched();
	}

	kvfree(entries);
	return err;
}
