// SPDX-License-Identifier: GPL-2.0
/*
 * Address spaces of a virtual GPU: the page table of the device, its faults and
 * invalidations.
 *
 * drm_gpusvm_get_pages() finds the pages behind a range under the device's
 * current owner, and does both checks that this takes: that no page has moved,
 * and that the device has not changed cluster. Its result is valid while
 * drm_gpusvm_pages_valid() says so under the notifier lock, and entries are set
 * in that same critical section.
 */
#include <linux/bitfield.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include <drm/drm_drv.h>

#include "devmem_drv.h"

#define DEVMEM_TABLE_SHIFT	21
#define DEVMEM_TABLE_ENTRIES	(1UL << (DEVMEM_TABLE_SHIFT - PAGE_SHIFT))

/* How much of the address space one mmu notifier covers. */
#define DEVMEM_NOTIFIER_SIZE	SZ_512M

/*
 * Sizes of ranges. No range crosses a table, so an upper bound for a range is
 * also a level to try: see devmem_vm_fault().
 */
static const unsigned long devmem_range_sizes[] = { SZ_2M, SZ_64K, SZ_4K };

/**
 * struct devmem_range - a range of a process that the device has used
 * @base: of drm_gpusvm
 * @pages: what is mapped, if anything
 * @gc: in &devmem_vm.gc, with a reference, once the range is unmapped
 * @read_only: @pages were got for reading. Protected by &devmem_vm.lock.
 */
struct devmem_range {
	struct drm_gpusvm_range base;
	struct drm_gpusvm_pages pages;
	struct list_head gc;
	bool read_only;
};

static struct devmem_range *to_devmem_range(struct drm_gpusvm_range *range)
{
	return container_of(range, struct devmem_range, base);
}

static struct devmem_vm *to_devmem_vm(struct drm_gpusvm *svm)
{
	return container_of(svm, struct devmem_vm, svm);
}

static unsigned long devmem_range_npages(struct devmem_range *range)
{
	return drm_gpusvm_range_size(&range->base) >> PAGE_SHIFT;
}

/* --- page table --- */

/* Make sure that there is a table for @addr. Before the notifier lock is taken. */
static int devmem_vm_table_alloc(struct devmem_vm *vm, unsigned long addr)
{
	unsigned long index = addr >> DEVMEM_TABLE_SHIFT;
	u64 *table;
	int err;

	lockdep_assert_held(&vm->lock);

	if (xa_load(&vm->tables, index))
		return 0;

	table = kvcalloc(DEVMEM_TABLE_ENTRIES, sizeof(*table), GFP_KERNEL);
	if (!table)
		return -ENOMEM;

	err = xa_err(xa_store(&vm->tables, index, table, GFP_KERNEL));
	if (err)
		kvfree(table);
	return err;
}

static u64 *devmem_vm_pte(struct devmem_vm *vm, unsigned long addr)
{
	u64 *table = xa_load(&vm->tables, addr >> DEVMEM_TABLE_SHIFT);

	if (!table)
		return NULL;
	return &table[(addr >> PAGE_SHIFT) % DEVMEM_TABLE_ENTRIES];
}

static void devmem_vm_clear(struct devmem_vm *vm, unsigned long start,
			    unsigned long end)
{
	unsigned long index;
	u64 *table;

	lockdep_assert_held(&vm->svm.notifier_lock);

	xa_for_each_range(&vm->tables, index, table, start >> DEVMEM_TABLE_SHIFT,
			  (end - 1) >> DEVMEM_TABLE_SHIFT) {
		unsigned long base = index << DEVMEM_TABLE_SHIFT;
		unsigned long first = max(base, start) - base;
		unsigned long last = min(base + SZ_2M, end) - base;

		memset(&table[first >> PAGE_SHIFT], 0,
		       ((last - first) >> PAGE_SHIFT) * sizeof(*table));
	}
}

/**
 * devmem_vm_lookup() - translate an address as the device does
 * @vm: the address space
 * @addr: the address
 *
 * Context: &devmem_vm.lock and &drm_gpusvm.notifier_lock are held, the latter for
 *	    as long as the entry is used: an invalidation waits for the access,
 *	    as one does that shoots a real device's TLB down.
 * Return: The page table entry, 0 if there is none.
 */
u64 devmem_vm_lookup(struct devmem_vm *vm, unsigned long addr)
{
	u64 *pte;

	lockdep_assert_held(&vm->lock);
	lockdep_assert_held(&vm->svm.notifier_lock);

	pte = devmem_vm_pte(vm, addr);
	return pte ? *pte : 0;
}

/* Map what drm_gpusvm_get_pages() found. */
static void devmem_range_map(struct devmem_vm *vm, struct devmem_range *range)
{
	unsigned long start = drm_gpusvm_range_start(&range->base);
	unsigned long npages = devmem_range_npages(range), i, j, k;
	struct devmem_counters *counters = &vm->dev->counters;
	u64 *pte = devmem_vm_pte(vm, start);
	unsigned long system = 0, local = 0, peer = 0;

	lockdep_assert_held(&vm->lock);
	lockdep_assert_held(&vm->svm.notifier_lock);

	for (i = 0, j = 0; i < npages; j++) {
		struct drm_pagemap_addr *addr = &range->pages.dma_addr[j];
		unsigned long nr = 1UL << addr->order;
		u64 flags = DEVMEM_PTE_VALID;

		if (addr->dir == DMA_BIDIRECTIONAL)
			flags |= DEVMEM_PTE_WRITE;
		if (addr->proto == DRM_INTERCONNECT_SYSTEM) {
			system += nr;
		} else {
			flags |= DEVMEM_PTE_DEVICE;
			if (FIELD_GET(DEVMEM_ADDR_ID, addr->addr) == vm->dev->id)
				local += nr;
			else
				peer += nr;
		}

		for (k = 0; k < nr; k++)
			pte[i + k] = (addr->addr + (k << PAGE_SHIFT)) | flags;
		i += nr;
	}

	atomic64_add(system, &counters->mapped_system);
	atomic64_add(local, &counters->mapped_local);
	atomic64_add(peer, &counters->mapped_peer);
}

/* --- ranges --- */

static struct drm_gpusvm_range *devmem_range_alloc(struct drm_gpusvm *svm)
{
	struct devmem_range *range;

	range = kzalloc_obj(*range);
	if (!range)
		return NULL;

	drm_gpusvm_init_pages(&range->pages, &to_devmem_vm(svm)->dev->drm);
	INIT_LIST_HEAD(&range->gc);
	return &range->base;
}

static void devmem_range_free(struct drm_gpusvm_range *base)
{
	struct devmem_range *range = to_devmem_range(base);

	drm_gpusvm_free_pages(base->gpusvm, &range->pages,
			      devmem_range_npages(range));
	kfree(range);
}

static void devmem_range_unmap(struct devmem_vm *vm, struct devmem_range *range,
			       bool in_notifier)
{
	struct drm_gpusvm_ctx ctx = { .in_notifier = true, };

	if (!in_notifier)
		down_write(&vm->svm.notifier_lock);
	devmem_vm_clear(vm, drm_gpusvm_range_start(&range->base),
			drm_gpusvm_range_end(&range->base));
	drm_gpusvm_unmap_pages(&vm->svm, &range->pages,
			       devmem_range_npages(range), &ctx);
	if (!in_notifier)
		up_write(&vm->svm.notifier_lock);
}

static void devmem_invalidate(struct drm_gpusvm *svm,
			      struct drm_gpusvm_notifier *notifier,
			      const struct mmu_notifier_range *mmu_range)
{
	struct drm_gpusvm_range *base = NULL;
	struct devmem_vm *vm = to_devmem_vm(svm);

	lockdep_assert_held_write(&svm->notifier_lock);

	drm_gpusvm_for_each_range(base, notifier, mmu_range->start,
				  mmu_range->end) {
		struct devmem_range *range = to_devmem_range(base);

		devmem_range_unmap(vm, range, true);
		if (mmu_range->event != MMU_NOTIFY_UNMAP)
			continue;

		drm_gpusvm_range_set_unmapped(base, &range->pages, 1, mmu_range);
		spin_lock(&vm->gc_lock);
		if (list_empty(&range->gc)) {
			drm_gpusvm_range_get(base);
			list_add_tail(&range->gc, &vm->gc);
		}
		spin_unlock(&vm->gc_lock);
	}
}

static const struct drm_gpusvm_ops devmem_gpusvm_ops = {
	.range_alloc = devmem_range_alloc,
	.range_free = devmem_range_free,
	.invalidate = devmem_invalidate,
};

static void devmem_range_remove(struct devmem_vm *vm, struct devmem_range *range)
{
	bool queued;

	lockdep_assert_held(&vm->lock);

	devmem_range_unmap(vm, range, false);
	drm_gpusvm_range_get(&range->base);
	drm_gpusvm_range_remove(&vm->svm, &range->base);

	/*
	 * munmap() may have come in between. No notifier finds the range now, so
	 * if it is not collected here it is not collected.
	 */
	spin_lock(&vm->gc_lock);
	queued = !list_empty(&range->gc);
	list_del_init(&range->gc);
	spin_unlock(&vm->gc_lock);
	if (queued)
		drm_gpusvm_range_put(&range->base);
	drm_gpusvm_range_put(&range->base);
}

/*
 * Remove ranges whose address space has been unmapped. Pages of a partly
 * unmapped range that still exist stay where they are.
 */
static void devmem_vm_collect(struct devmem_vm *vm)
{
	struct devmem_range *range;

	lockdep_assert_held(&vm->lock);

	for (;;) {
		spin_lock(&vm->gc_lock);
		range = list_first_entry_or_null(&vm->gc, struct devmem_range, gc);
		if (range)
			list_del_init(&range->gc);
		spin_unlock(&vm->gc_lock);
		if (!range)
			break;

		devmem_range_remove(vm, range);
		drm_gpusvm_range_put(&range->base);
	}
}

/* --- faults --- */

static int devmem_range_fault(struct devmem_vm *vm, struct devmem_range *range,
			      bool write)
{
	struct drm_gpusvm_ctx ctx = {
		.peer = &vm->dev->peer,
		.read_only = !write,
		.allow_mixed = true,
	};
	unsigned long start = drm_gpusvm_range_start(&range->base);
	int err;

	/* Valid pages are not looked up again: let go of those to upgrade. */
	if (write && range->read_only)
		devmem_range_unmap(vm, range, false);

	err = drm_gpusvm_get_pages(&vm->svm, &range->pages, vm->svm.mm,
				   &range->base.notifier->notifier, start,
				   drm_gpusvm_range_end(&range->base), &ctx);
	if (err)
		return err;
	range->read_only = !write;

	drm_gpusvm_notifier_lock(&vm->svm);
	if (drm_gpusvm_pages_valid(&vm->svm, &range->pages))
		devmem_range_map(vm, range);
	else
		err = -EAGAIN;
	drm_gpusvm_notifier_unlock(&vm->svm);

	return err;
}

/**
 * devmem_vm_fault() - a fault of the device
 * @vm: the address space
 * @addr: the address
 * @write: whether it was a write
 *
 * Maps as much around @addr as one drm_gpusvm_range can take. A range can refer
 * to the memory of one drm_pagemap only; so where memory of several devices lies
 * close together, smaller ranges are tried, down to one page. That way it is used
 * where it is, and not moved. The same goes for a range that only partly allows
 * the access.
 *
 * Context: May sleep. &devmem_vm.lock is held; waits for topology changes.
 * Return: 0 if it is worth to look again; -EFAULT; -EBUSY if that took too long;
 *	   -EINTR if a fatal signal is pending; -ENOMEM; -ENODEV.
 */
int devmem_vm_fault(struct devmem_vm *vm, unsigned long addr, bool write)
{
	struct drm_gpusvm_ctx ctx = {
		.peer = &vm->dev->peer,
		.read_only = !write,
		.devmem_possible = true,
		/* No more than the CPU has: neither zero pages nor pages moved. */
		.check_pages_threshold = SZ_2M,
	};
	struct devmem_counters *counters = &vm->dev->counters;
	unsigned int level = 0;
	int err;

	lockdep_assert_held(&vm->lock);

	atomic64_inc(&counters->device_faults);

	err = devmem_vm_table_alloc(vm, addr);
	if (err)
		return err;

	while (level < ARRAY_SIZE(devmem_range_sizes)) {
		unsigned long size = devmem_range_sizes[level];
		unsigned long start = ALIGN_DOWN(addr, size);
		struct drm_gpusvm_range_flags flags;
		struct drm_gpusvm_range *base;
		struct devmem_range *range;

		if (fatal_signal_pending(current))
			return -EINTR;

		devmem_vm_collect(vm);

		base = drm_gpusvm_range_find_or_insert(&vm->svm, addr, start,
						       start + size, &ctx);
		if (IS_ERR(base)) {
			err = PTR_ERR(base);
			/* No mapping, not for this access, not of this kind. */
			if (err == -ENOENT || err == -EPERM || err == -EIO ||
			    err == -EINVAL)
				err = -EFAULT;
			return err;
		}

		range = to_devmem_range(base);
		if (drm_gpusvm_range_size(base) > size) {
			devmem_range_remove(vm, range);
			continue;
		}

		err = devmem_range_fault(vm, range, write);
		switch (err) {
		case 0:
			return 0;
		case -EAGAIN:
			atomic64_inc(&counters->fault_retries);
			return 0;
		case -EOPNOTSUPP:
		case -EFAULT:
		case -EPERM:
			/* Or the range has been unmapped: collect it first. */
			flags.__flags = READ_ONCE(base->flags.__flags);
			if (flags.unmapped)
				continue;
			break;
		default:
			return err;
		}

		/* Next level below the size that was tried. */
		size = drm_gpusvm_range_size(base);
		devmem_range_remove(vm, range);
		while (level < ARRAY_SIZE(devmem_range_sizes) &&
		       devmem_range_sizes[level] >= size)
			level++;
	}

	return -EFAULT;
}

/* --- life --- */

/*
 * Teach lockdep the order at the top of devmem_drv.h with the first address space,
 * not when a change of the topology meets a fault. The core teaches it that faults
 * wait for &pgmap_fabric.lock, drm_gpusvm that reclaim takes the notifier lock.
 */
static void devmem_vm_lockdep(struct devmem_vm *vm)
{
#ifdef CONFIG_LOCKDEP
	struct lockdep_map *outer = &devmem_fabric.lock.dep_map;
	struct lockdep_map *inner = &vm->dev->vms_lock.dep_map;

	lock_map_acquire(outer);
	lock_map_acquire(inner);
	might_lock(&vm->svm.notifier_lock);
	lock_map_release(inner);
	lock_map_release(outer);

	lock_map_acquire(&vm->lock.dep_map);
	might_lock(&devmem_fabric.lock);
	lock_map_release(&vm->lock.dep_map);
#endif
}

struct devmem_vm *devmem_vm_create(struct devmem_device *dev,
				   struct mm_struct *mm)
{
	struct devmem_vm *vm;
	int err;

	vm = kzalloc_obj(*vm);
	if (!vm)
		return ERR_PTR(-ENOMEM);

	vm->dev = dev;
	mutex_init(&vm->lock);
	spin_lock_init(&vm->gc_lock);
	INIT_LIST_HEAD(&vm->gc);
	xa_init(&vm->tables);

	vm->buf = (void *)__get_free_page(GFP_KERNEL);
	if (!vm->buf) {
		err = -ENOMEM;
		goto err_free;
	}

	err = drm_gpusvm_init(&vm->svm, "drm-devmem", mm, 0, mm->task_size,
			      DEVMEM_NOTIFIER_SIZE, &devmem_gpusvm_ops,
			      devmem_range_sizes,
			      ARRAY_SIZE(devmem_range_sizes));
	if (err)
		goto err_buf;
	drm_gpusvm_driver_set_lock(&vm->svm, &vm->lock);
	devmem_vm_lockdep(vm);

	mutex_lock(&dev->vms_lock);
	list_add_tail(&vm->link, &dev->vms);
	mutex_unlock(&dev->vms_lock);

	return vm;

err_buf:
	free_page((unsigned long)vm->buf);
err_free:
	mutex_destroy(&vm->lock);
	kfree(vm);
	return ERR_PTR(err);
}

void devmem_vm_destroy(struct devmem_vm *vm)
{
	struct devmem_device *dev = vm->dev;
	unsigned long index;
	u64 *table;

	mutex_lock(&dev->vms_lock);
	list_del(&vm->link);
	mutex_unlock(&dev->vms_lock);

	mutex_lock(&vm->lock);
	devmem_vm_collect(vm);
	/* Ranges that are still there are unmapped by devmem_range_free(). */
	drm_gpusvm_fini(&vm->svm);
	/* An invalidation may have come after the collection. */
	while (!list_empty(&vm->gc)) {
		struct devmem_range *range =
			list_first_entry(&vm->gc, struct devmem_range, gc);

		list_del_init(&range->gc);
		drm_gpusvm_range_put(&range->base);
	}
	mutex_unlock(&vm->lock);

	xa_for_each(&vm->tables, index, table)
		kvfree(table);
	xa_destroy(&vm->tables);
	free_page((unsigned long)vm->buf);
	mutex_destroy(&vm->lock);
	kfree(vm);
}

/**
 * devmem_vms_invalidate() - drop all mappings of a device
 * @dev: the device
 *
 * Context: May sleep. Does not take &devmem_vm.lock, which is held
 *	    across device faults.
 */
void devmem_vms_invalidate(struct devmem_device *dev)
{
	struct devmem_vm *vm;

	mutex_lock(&dev->vms_lock);
	list_for_each_entry(vm, &dev->vms, link)
		drm_gpusvm_invalidate_all(&vm->svm);
	mutex_unlock(&dev->vms_lock);
}
