// SPDX-License-Identifier: GPL-2.0
/*
 * drm_devmem: the requests of an open render node.
 */
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <drm/drm_file.h>

#include "devmem_drv.h"

/* Pages per walk of DRM_IOCTL_DEVMEM_QUERY and for counting. */
#define DEVMEM_QUERY_BATCH	(SZ_256K / sizeof(u32))

static int devmem_check_range(u64 addr, u64 len, u64 align)
{
	u64 end;

	if (!len || !IS_ALIGNED(addr, align) || !IS_ALIGNED(len, align) ||
	    check_add_overflow(addr, len, &end))
		return -EINVAL;
	if (!current->mm || end > current->mm->task_size)
		return -EFAULT;
	return 0;
}

/* The address space of an open file; made when it is first needed. */
static struct devmem_vm *devmem_file_vm(struct drm_device *drm,
					struct drm_file *drm_file)
{
	struct devmem_file *file = drm_file->driver_priv;
	struct devmem_vm *vm;

	if (mutex_lock_killable(&file->lock))
		return ERR_PTR(-EINTR);

	vm = file->vm;
	if (!vm) {
		vm = devmem_vm_create(to_devmem_device(drm), current->mm);
		if (!IS_ERR(vm))
			file->vm = vm;
	} else if (vm->svm.mm != current->mm) {
		vm = ERR_PTR(-EINVAL);
	}
	mutex_unlock(&file->lock);

	return vm;
}

int devmem_ioctl_info(struct drm_device *drm, void *data,      struct drm_file *file)
{
	struct devmem_device *dev = to_devmem_device(drm);
	struct devmem_info *args = data;

	if (args->flags)
		return -EINVAL;

	args->id = dev->id;
	args->owner_id = pgmap_peer_owner_id(&dev->peer);
	args->mem_size = dev->mem_size;
	args->chunk_size = dev->chunk_size;
	args->mem_free = devmem_mem_free(dev);
	return 0;
}

int devmem_ioctl_exec(struct drm_device *drm, void *data,      struct drm_file *file)
{
	struct devmem_exec *args = data;
	bool src = false, dst = false, value = false;
	struct devmem_vm *vm;
	u32 flags = 0;
	int err;

	args->result = 0;
	args->done = 0;

	switch (args->op) {
	case DEVMEM_OP_FILL:
		dst = true;
		value = true;
		flags = DEVMEM_EXEC_COUNT;
		break;
	case DEVMEM_OP_COPY:
		src = true;
		dst = true;
		break;
	case DEVMEM_OP_CHECKSUM:
		src = true;
		break;
	case DEVMEM_OP_ATOMIC_ADD:
		dst = true;
		value = true;
		break;
	default:
		return -EINVAL;
	}

	if (args->flags & ~flags || (!src && args->src) || (!dst && args->dst) ||
	    (!value && args->value))
		return -EINVAL;
	if (src) {
		err = devmem_check_range(args->src, args->len, sizeof(u64));
		if (err)
			return err;
	}
	if (dst) {
		err = devmem_check_range(args->dst, args->len, sizeof(u64));
		if (err)
			return err;
	}
	if (src && dst && args->src < args->dst + args->len &&
	    args->dst < args->src + args->len)
		return -EINVAL;

	vm = devmem_file_vm(drm, file);
	if (IS_ERR(vm))
		return PTR_ERR(vm);

	return devmem_engine_exec(vm, args);
}

/* How many pages are on the device, or in system memory? */
static int devmem_count(struct devmem_device *dev, unsigned long addr,
			unsigned long len, bool system, u64 *count)
{
	unsigned long nr = len >> PAGE_SHIFT, n, i;
	u32 *entries;
	int err = 0;

	*count = 0;
	entries = kvmalloc_objs(*entries, min(nr, DEVMEM_QUERY_BATCH));
	if (!entries)
		return -ENOMEM;

	while (nr && !err) {
		n = min(nr, DEVMEM_QUERY_BATCH);
		err = devmem_walk_query(&dev, 1, current->mm, addr, n, entries, NULL);
		for (i = 0; i < n && !err; i++) {
			if (system)
				*count += DEVMEM_PAGE_KIND(entries[i]) ==
					  DEVMEM_PAGE_SYSTEM;
			else
				*count += DEVMEM_PAGE_KIND(entries[i]) ==
					  DEVMEM_PAGE_DEVICE &&
					  DEVMEM_PAGE_ID(entries[i]) == dev->id;
		}
		addr += n << PAGE_SHIFT;
		nr -= n;
	}

	kvfree(entries);
	return err;
}

int devmem_ioctl_migrate(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct devmem_device *dev = to_devmem_device(drm);
	struct devmem_migrate *args = data;
	struct devmem_vm *vm;
	int err, ret;

	args->pages = 0;
	if ((args->flags != DEVMEM_MIGRATE_TO_DEVICE &&
	     args->flags != DEVMEM_MIGRATE_TO_SYSTEM) || args->pad)
		return -EINVAL;
	err = devmem_check_range(args->addr, args->len, PAGE_SIZE);
	if (err)
		return err;

	vm = devmem_file_vm(drm, file);
	if (IS_ERR(vm))
		return PTR_ERR(vm);

	if (args->flags == DEVMEM_MIGRATE_TO_DEVICE)
		err = devmem_mem_migrate(dev, current->mm, args->addr,
					 args->addr + args->len);
	else
		err = devmem_walk_to_system(current->mm, args->addr,
					    args->addr + args->len);

	ret = devmem_count(dev, args->addr, args->len,
			   args->flags == DEVMEM_MIGRATE_TO_SYSTEM, &args->pages);
	/* Some of it is there, and the caller can see how much. */
	if (err == -ENOSPC && args->pages)
		err = 0;
	return err ?: ret;
}

int devmem_ioctl_query(struct drm_device *drm, void *data,       struct drm_file *file)
{
	struct devmem_device *devs[DEVMEM_MAX_DEVICES];
	struct devmem_query *args = data;
	u32 __user *pages = u64_to_user_ptr(args->pages);
	u64 nr = args->len >> PAGE_SHIFT, i, n;
	unsigned int nr_devs;
	u32 *entries;
	int err;

	if (args->flags || args->pad)
		return -EINVAL;
	err = devmem_check_range(args->addr, args->len, PAGE_SIZE);
	if (err)
		return err;

	entries = kvmalloc_objs(*entries, min(nr, DEVMEM_QUERY_BATCH));
	if (!entries)
		return -ENOMEM;

	for (i = 0; i < nr && !err; i += n) {
		n = min(nr - i, DEVMEM_QUERY_BATCH);

		/* No lock is kept: what a walk waits for is up to the user. */
		nr_devs = devmem_devices_get(devs, true);
		err = devmem_walk_query(devs, nr_devs, current->mm,
					args->addr + (i << PAGE_SHIFT), n, entries, NULL);
		devmem_devices_put(devs, nr_devs);

		if (!err && copy_to_user(&pages[i], entries, n * sizeof(*entries)))
			err = -EFAULT;
	}

	kvfree(entries);
	return err;
}

int devmem_ioctl_hold(struct drm_device *drm, void *data,      struct drm_file *file)
{
	struct devmem_device *devs[DEVMEM_MAX_DEVICES];
	struct devmem_hold *args = data;
	struct folio *folio = NULL;
	unsigned int nr_devs;
	unsigned long left;
	u32 entry;
	int err;

	if (args->flags & ~DEVMEM_HOLD_LOCK || !args->ms ||
	    args->ms > 60 * MSEC_PER_SEC)
		return -EINVAL;
	err = devmem_check_range(args->addr, PAGE_SIZE, PAGE_SIZE);
	if (err)
		return err;

	nr_devs = devmem_devices_get(devs, true);
	err = devmem_walk_query(devs, nr_devs, current->mm, args->addr, 1, &entry,
				&folio);
	devmem_devices_put(devs, nr_devs);
	if (!err && !folio)
		err = -ENOENT;
	if (err)
		return err;

	/* No reference to a device: what holds a page need not know of devices. */
	if (args->flags & DEVMEM_HOLD_LOCK) {
		err = folio_lock_killable(folio);
		if (err)
			goto out_put;
	}
	/* It may be woken for no reason. */
	left = msecs_to_jiffies(args->ms);
	while (left && !fatal_signal_pending(current))
		left = schedule_timeout_killable(left);
	if (left)
		err = -EINTR;
	if (args->flags & DEVMEM_HOLD_LOCK)
		folio_unlock(folio);
out_put:
	folio_put(folio);
	return err;
}

int devmem_ioctl_stats(struct drm_device *drm, void *data,       struct drm_file *file)
{
	struct devmem_counters *counters = &to_devmem_device(drm)->counters;
	struct devmem_stats *args = data;

	if (args->flags || args->pad)
		return -EINVAL;

	args->device_faults = atomic64_read(&counters->device_faults);
	args->fault_retries = atomic64_read(&counters->fault_retries);
	args->mapped_system = atomic64_read(&counters->mapped_system);
	args->mapped_local = atomic64_read(&counters->mapped_local);
	args->mapped_peer = atomic64_read(&counters->mapped_peer);
	args->migrated_in = atomic64_read(&counters->migrated_in);
	args->migrated_out = atomic64_read(&counters->migrated_out);
	args->evictions = atomic64_read(&counters->evictions);
	args->bytes_copied = atomic64_read(&counters->bytes_copied);
	args->bytes_dma = atomic64_read(&counters->bytes_dma);
	args->link_errors = atomic64_read(&counters->link_errors);
	args->violations = atomic64_read(&counters->violations);
	return 0;
}
