// SPDX-License-Identifier: GPL-2.0
/*
 * Memory of a virtual GPU: chunks of slots, allocations of slots, copies.
 *
 * A chunk is one drm_pagemap, hence one region of the fabric: the unit in which
 * memory gets new struct pages when the device changes cluster. An allocation
 * lies within one chunk. It is made for one migration of up to 2 MiB, is
 * released when the last of its pages is freed, and can be evicted.
 *
 * Release and destruction come from wherever the last page is freed, which may
 * be with a page table lock held. The work of both is left to devmem_wq, whose
 * order sees to it that a chunk goes after its allocations.
 */
#include <linux/dma-mapping.h>
#include <linux/fault-inject.h>
#include <linux/highmem.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include <drm/drm_drv.h>
#include <drm/drm_print.h>

#include "devmem_drv.h"

/**
 * struct devmem_alloc - an allocation of device memory
 * @devmem: for drm_pagemap
 * @ref: one of drm_pagemap, until &drm_pagemap_devmem_ops.devmem_release; and
 *	one of the thread that evicts it
 * @chunk: where it lies. Holds a reference on its &devmem_chunk.dpagemap.
 * @blocks: the memory. Protected by &devmem_chunk.lock until it is filled,
 *	immutable afterwards.
 * @link: in &devmem_device.allocs
 * @free_work: frees the allocation
 */
struct devmem_alloc {
	struct drm_pagemap_devmem devmem;
	struct kref ref;
	struct devmem_chunk *chunk;
	struct list_head blocks;
	struct list_head link;
	struct work_struct free_work;
};

struct workqueue_struct *devmem_wq;

static void devmem_alloc_free_work(struct work_struct *work)
{
	struct devmem_alloc *alloc =
		container_of(work, struct devmem_alloc, free_work);
	struct devmem_chunk *chunk = alloc->chunk;
	struct devmem_device *dev = chunk->dev;

	spin_lock(&dev->allocs_lock);
	list_del(&alloc->link);
	spin_unlock(&dev->allocs_lock);

	mutex_lock(&chunk->lock);
	gpu_buddy_free_list(&chunk->buddy, &alloc->blocks, 0);
	mutex_unlock(&chunk->lock);

	atomic64_sub(alloc->devmem.size >> PAGE_SHIFT, &dev->allocated);
	mmdrop(alloc->devmem.mm);
	drm_pagemap_put(&chunk->dpagemap);
	kfree(alloc);
}

static void devmem_alloc_release(struct kref *ref)
{
	struct devmem_alloc *alloc = container_of(ref, struct devmem_alloc, ref);

	queue_work(devmem_wq, &alloc->free_work);
}

static void devmem_alloc_put(struct devmem_alloc *alloc)
{
	kref_put(&alloc->ref, devmem_alloc_release);
}

static void devmem_devmem_release(struct drm_pagemap_devmem *devmem)
{
	devmem_alloc_put(container_of(devmem, struct devmem_alloc, devmem));
}

static int devmem_populate_slots(struct drm_pagemap_devmem *devmem,
				 unsigned long npages, unsigned long *slots)
{
	struct devmem_alloc *alloc =
		container_of(devmem, struct devmem_alloc, devmem);
	struct gpu_buddy *buddy = &alloc->chunk->buddy;
	struct gpu_buddy_block *block;
	unsigned long i, n = 0;

	list_for_each_entry(block, &alloc->blocks, link) {
		unsigned long first = gpu_buddy_block_offset(block) >> PAGE_SHIFT;
		unsigned long nr = gpu_buddy_block_size(buddy, block) >> PAGE_SHIFT;

		for (i = 0; i < nr && n < npages; i++)
			slots[n++] = first + i;
	}

	return n == npages ? 0 : -EINVAL;
}

static struct devmem_chunk *devmem_page_chunk(struct page *page)
{
	struct pgmap_region *region = pgmap_page_window(page)->region;

	return to_devmem_chunk(drm_pagemap_from_region(region));
}

/* Where a page of a device is in the device's memory. */
static u64 devmem_page_offset(struct page *page)
{
	struct devmem_chunk *chunk = devmem_page_chunk(page);

	/* The core has chosen where the chunk is. */
	if (is_device_coherent_page(page))
		return page_to_phys(page) - chunk->dev->peer.mem->start;
	return chunk->offset + ((u64)pgmap_page_slot(page) << PAGE_SHIFT);
}

/*
 * A section that keeps the device covers one page. A thread that gets no CPU can be in one,
 * and the removal of the device waits for it.
 */
static int devmem_page_in(struct devmem_device *dev, u64 offset, struct page *src)
{
	void *buf;
	int idx;

	if (!drm_dev_enter(&dev->drm, &idx))
		return -ENODEV;
	if (src) {
		buf = kmap_local_page(src);
		dev->ops->write(dev, offset, buf, PAGE_SIZE);
		kunmap_local(buf);
	} else {
		dev->ops->clear(dev, offset, PAGE_SIZE);
	}
	drm_dev_exit(idx);
	return 0;
}

/* A copy is over. -EIO if it is not valid, as the device was lost meanwhile. */
static int devmem_copy_end(struct devmem_device *dev, unsigned long pages)
{
	bool alive;
	int idx;

	atomic64_add((u64)pages << PAGE_SHIFT, &dev->counters.bytes_copied);
	if (!drm_dev_enter(&dev->drm, &idx))
		return -ENODEV;
	alive = devmem_alive(dev);
	drm_dev_exit(idx);
	return alive && !should_fail(&devmem_fail_copy, pages << PAGE_SHIFT) ? 0 : -EIO;
}

/*
 * Holes are cleared: all of the allocation is overwritten before any of it can
 * be seen, so nothing of its last user is left.
 */
static int devmem_copy_to_devmem(struct page **pages,
				 struct drm_pagemap_addr *addrs,
				 unsigned long npages, struct dma_fence *fence)
{
	unsigned long i, j, nr, copied = 0, cleared = 0;
	struct devmem_device *dev = NULL;
	int err = 0;

	for (i = 0; i < npages; i += nr) {
		struct page *page = pages[i];
		u64 offset;

		nr = 1;
		if (!page)
			continue;

		dev = devmem_page_chunk(page)->dev;
		offset = devmem_page_offset(page);
		if (addrs[i].addr) {
			nr = 1UL << addrs[i].order;
			copied += nr;
		} else {
			nr = folio_nr_pages(page_folio(page));
			cleared += nr;
		}
		for (j = 0; j < nr && !err; j++) {
			struct page *src = addrs[i].addr ?
				devmem_dma_page(dev, addrs[i].addr + (j << PAGE_SHIFT)) :
				NULL;

			err = devmem_page_in(dev, offset + (j << PAGE_SHIFT), src);
		}
		if (err)
			return err;
		cond_resched();
	}
	if (!dev)
		return 0;

	atomic64_add(copied + cleared, &dev->counters.migrated_in);
	return devmem_copy_end(dev, copied);
}

/* One page from @dev to system memory, or to another device of its cluster. */
static int devmem_page_out(struct devmem_device *dev, u64 offset,
			   const struct drm_pagemap_addr *addr,
			   unsigned long index, void *bounce)
{
	dma_addr_t dst = addr->addr + (index << PAGE_SHIFT);
	int err = 0, idx;
	void *buf;

	if (!drm_dev_enter(&dev->drm, &idx))
		return -ENODEV;
	if (addr->proto == DRM_INTERCONNECT_SYSTEM) {
		buf = kmap_local_page(devmem_dma_page(dev, dst));
		dev->ops->read(dev, offset, buf, PAGE_SIZE);
		kunmap_local(buf);
	} else {
		dev->ops->read(dev, offset, bounce, PAGE_SIZE);
		err = devmem_access(dev, dst | DEVMEM_PTE_DEVICE, 0, bounce, PAGE_SIZE,
				    true);
	}
	drm_dev_exit(idx);
	return err;
}

static int devmem_copy_to_ram(struct page **pages,
			      struct drm_pagemap_addr *addrs,
			      unsigned long npages, struct dma_fence *fence)
{
	struct devmem_device *dev = NULL;
	unsigned long i, j, nr, copied = 0;
	void *bounce = NULL;
	int err = 0, ret;

	for (i = 0; i < npages && !err; i += nr) {
		struct page *page = pages[i];

		nr = 1;
		if (!page || !addrs[i].addr)
			continue;

		dev = devmem_page_chunk(page)->dev;
		if (addrs[i].proto != DRM_INTERCONNECT_SYSTEM && !bounce) {
			bounce = (void *)__get_free_page(GFP_KERNEL);
			if (!bounce) {
				err = -ENOMEM;
				break;
			}
		}

		nr = 1UL << addrs[i].order;
		for (j = 0; j < nr && !err; j++)
			err = devmem_page_out(dev, devmem_page_offset(page) +
					      (j << PAGE_SHIFT), &addrs[i], j, bounce);
		if (err)
			break;

		copied += nr;
		if (addrs[i].proto == DRM_INTERCONNECT_SYSTEM)
			atomic64_add(nr, &dev->counters.migrated_out);
		cond_resched();
	}
	free_page((unsigned long)bounce);

	ret = dev ? devmem_copy_end(dev, copied) : 0;
	return err ?: ret;
}

static const struct drm_pagemap_devmem_ops devmem_devmem_ops = {
	.devmem_release = devmem_devmem_release,
	.populate_devmem_slots = devmem_populate_slots,
	.copy_to_devmem = devmem_copy_to_devmem,
	.copy_to_ram = devmem_copy_to_ram,
};

static struct devmem_alloc *devmem_alloc_create(struct devmem_chunk *chunk,
						struct mm_struct *mm, u64 size)
{
	struct devmem_device *dev = chunk->dev;
	/* A huge page needs slots in one piece and aligned; others do not. */
	u64 min_size = size == DEVMEM_HUGE_SIZE ? size : PAGE_SIZE;
	struct devmem_alloc *alloc;
	int err;

	alloc = kzalloc_obj(*alloc);
	if (!alloc)
		return ERR_PTR(-ENOMEM);

	kref_init(&alloc->ref);
	INIT_LIST_HEAD(&alloc->blocks);
	INIT_WORK(&alloc->free_work, devmem_alloc_free_work);
	alloc->chunk = chunk;

	mutex_lock(&chunk->lock);
	err = gpu_buddy_alloc_blocks(&chunk->buddy, 0, chunk->size, size,
				     min_size, &alloc->blocks, 0);
	mutex_unlock(&chunk->lock);
	if (err) {
		kfree(alloc);
		return ERR_PTR(err);
	}

	mmgrab(mm);
	drm_pagemap_get(&chunk->dpagemap);
	drm_pagemap_devmem_init(&alloc->devmem, dev->drm.dev, mm,
				&devmem_devmem_ops, &chunk->dpagemap, size,
				NULL);
	atomic64_add(size >> PAGE_SHIFT, &dev->allocated);

	return alloc;
}

static int devmem_populate_mm(struct drm_pagemap *dpagemap, unsigned long start,
			      unsigned long end, struct mm_struct *mm,
			      unsigned long timeslice_ms)
{
	struct drm_pagemap_migrate_details details = {
		.timeslice_ms = timeslice_ms,
		.can_migrate_same_pagemap = 1,
	};
	struct devmem_chunk *chunk = to_devmem_chunk(dpagemap);
	struct devmem_device *dev = chunk->dev;
	struct devmem_alloc *alloc;

	alloc = devmem_alloc_create(chunk, mm, end - start);
	if (IS_ERR(alloc))
		return PTR_ERR(alloc);

	/*
	 * Evicting an allocation whose pages are just being made finds nothing
	 * to move and gives up: no need to keep it off the list.
	 */
	spin_lock(&dev->allocs_lock);
	list_add_tail(&alloc->link, &dev->allocs);
	spin_unlock(&dev->allocs_lock);

	/* Takes over our reference. */
	return drm_pagemap_migrate_to_devmem(&alloc->devmem, mm, start, end, &details);
}

static struct drm_pagemap_addr devmem_device_map(struct drm_pagemap *dpagemap,
						 struct device *device,
						 struct page *page,
						 unsigned int order,
						 enum dma_data_direction dir)
{
	struct devmem_device *dev = to_devmem_chunk(dpagemap)->dev;

	return drm_pagemap_addr_encode(devmem_addr(dev, devmem_page_offset(page)),
				       DRM_INTERCONNECT_DRIVER, order, dir);
}

/* Required by drm_pagemap; an address on the interconnect holds nothing. */
static void devmem_device_unmap(struct drm_pagemap *dpagemap,
				struct device *device,
				const struct drm_pagemap_addr *addr)
{
}

static void devmem_chunk_free_work(struct work_struct *work)
{
	struct devmem_chunk *chunk =
		container_of(work, struct devmem_chunk, free_work);

	gpu_buddy_fini(&chunk->buddy);
	if (chunk->ops->fini_chunk)
		chunk->ops->fini_chunk(chunk);
	mutex_destroy(&chunk->lock);
	kfree(chunk);
}

static void devmem_chunk_destroy(struct drm_pagemap *dpagemap,
				 bool is_atomic_or_reclaim)
{
	queue_work(devmem_wq, &to_devmem_chunk(dpagemap)->free_work);
}

static const struct drm_pagemap_ops devmem_pagemap_ops = {
	.device_map = devmem_device_map,
	.device_unmap = devmem_device_unmap,
	.populate_mm = devmem_populate_mm,
	.destroy = devmem_chunk_destroy,
};

static struct devmem_chunk *devmem_chunk_create(struct devmem_device *dev,
						u64 offset, u64 size)
{
	struct devmem_chunk *chunk;
	int err;

	chunk = kzalloc_obj(*chunk);
	if (!chunk)
		return ERR_PTR(-ENOMEM);

	chunk->dev = dev;
	chunk->ops = dev->ops;
	chunk->offset = offset;
	chunk->size = size;
	mutex_init(&chunk->lock);
	INIT_WORK(&chunk->free_work, devmem_chunk_free_work);

	err = gpu_buddy_init(&chunk->buddy, size, PAGE_SIZE);
	if (err)
		goto err_free;
	gpu_buddy_driver_set_lock(&chunk->buddy, &chunk->lock);

	if (chunk->ops->init_chunk) {
		err = chunk->ops->init_chunk(chunk);
		if (err)
			goto err_buddy;
	}

	err = drm_pagemap_init(&chunk->dpagemap, &dev->drm, &devmem_pagemap_ops);
	if (err)
		goto err_memory;

	return chunk;

err_memory:
	if (chunk->ops->fini_chunk)
		chunk->ops->fini_chunk(chunk);
err_buddy:
	gpu_buddy_fini(&chunk->buddy);
err_free:
	mutex_destroy(&chunk->lock);
	kfree(chunk);
	return ERR_PTR(err);
}

/* Get all of the memory. The device need not have joined the fabric. */
int devmem_mem_init(struct devmem_device *dev)
{
	unsigned int i;

	mutex_init(&dev->vms_lock);
	INIT_LIST_HEAD(&dev->vms);
	spin_lock_init(&dev->allocs_lock);
	INIT_LIST_HEAD(&dev->allocs);

	dev->nr_chunks = DIV64_U64_ROUND_UP(dev->mem_size, dev->chunk_size);
	dev->chunks = kvcalloc(dev->nr_chunks, sizeof(*dev->chunks), GFP_KERNEL);
	if (!dev->chunks)
		return -ENOMEM;

	for (i = 0; i < dev->nr_chunks; i++) {
		u64 offset = i * dev->chunk_size;
		struct devmem_chunk *chunk;

		chunk = devmem_chunk_create(dev, offset,
					    min(dev->chunk_size,
						dev->mem_size - offset));
		if (IS_ERR(chunk)) {
			devmem_mem_fini(dev);
			return PTR_ERR(chunk);
		}
		dev->chunks[i] = chunk;
	}

	return 0;
}

/* Let go of the memory. The device is not, or no longer, in the fabric. */
void devmem_mem_fini(struct devmem_device *dev)
{
	unsigned int i;

	for (i = 0; i < dev->nr_chunks; i++) {
		if (!dev->chunks[i])
			continue;
		/* Here, since the region refers to the device. Can't fail. */
		drm_pagemap_unregister(&dev->chunks[i]->dpagemap, 0, 0);
		drm_pagemap_put(&dev->chunks[i]->dpagemap);
	}
	kvfree(dev->chunks);
	dev->chunks = NULL;
}

/* Make pages for all of the memory. The device has joined the fabric. */
int devmem_mem_register(struct devmem_device *dev)
{
	unsigned int i;
	int err;

	for (i = 0; i < dev->nr_chunks; i++) {
		err = drm_pagemap_register(&dev->chunks[i]->dpagemap, &dev->peer,
					   dev->chunks[i]->size);
		if (err)
			return err;
	}

	return 0;
}

/**
 * devmem_chunk_get() - get a chunk of a device
 * @dev: the device
 * @n: which
 *
 * Context: Any.
 * Return: The chunk, kept until drm_pagemap_put(); NULL if the device is gone.
 */
struct devmem_chunk *devmem_chunk_get(struct devmem_device *dev, unsigned int n)
{
	struct devmem_chunk *chunk;
	int idx;

	if (!drm_dev_enter(&dev->drm, &idx))
		return NULL;
	chunk = dev->chunks[n];
	drm_pagemap_get(&chunk->dpagemap);
	drm_dev_exit(idx);
	return chunk;
}

u64 devmem_mem_free(struct devmem_device *dev)
{
	return dev->mem_size - (atomic64_read(&dev->allocated) << PAGE_SHIFT);
}

/* Push the oldest allocation out to system memory. */
int devmem_mem_evict(struct devmem_device *dev)
{
	struct devmem_alloc *alloc = NULL, *pos;
	int err;

	spin_lock(&dev->allocs_lock);
	list_for_each_entry(pos, &dev->allocs, link) {
		if (kref_get_unless_zero(&pos->ref)) {
			alloc = pos;
			/* If it does not go, try another one next time. */
			list_move_tail(&alloc->link, &dev->allocs);
			break;
		}
	}
	spin_unlock(&dev->allocs_lock);

	if (!alloc)
		return -ENOSPC;

	err = drm_pagemap_evict_to_ram(&alloc->devmem);
	devmem_alloc_put(alloc);
	if (!err)
		atomic64_inc(&dev->counters.evictions);

	/* What has been released, by us or by others, shall be free. */
	flush_workqueue(devmem_wq);

	return err == -ENOMEM ? err : 0;
}
