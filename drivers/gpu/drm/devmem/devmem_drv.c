// SPDX-License-Identifier: GPL-2.0
/*
 * drm_devmem: the DRM driver and its ioctls.
 *
 * A virtual GPU is a faux device that is made and removed at run time through
 * the misc device in devmem_ctl.c, or a PCI card, see devmem_pci.c. What both do in
 * probe() and remove() is in devmem_device_create() and devmem_device_destroy().
 */
#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/fault-inject.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/overflow.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <drm/drm_drv.h>
#include <drm/drm_file.h>
#include <drm/drm_ioctl.h>

#include "devmem_drv.h"

/* Pages per walk of DRM_IOCTL_DEVMEM_QUERY and for counting. */
#define DEVMEM_QUERY_BATCH	(SZ_256K / sizeof(u32))

/* No pages are there to be moved when a device appears or fails to. */
#define DEVMEM_PROBE_TIMEOUT	(10 * HZ)

/* --- requests --- */

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

static int devmem_ioctl_info(struct drm_device *drm, void *data,
			     struct drm_file *file)
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

static int devmem_ioctl_exec(struct drm_device *drm, void *data,
			     struct drm_file *file)
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
	struct pgmap_peer *peer = &dev->peer;
	u32 *entries;
	int err = 0;

	*count = 0;
	entries = kvmalloc_objs(*entries, min(nr, DEVMEM_QUERY_BATCH));
	if (!entries)
		return -ENOMEM;

	while (nr && !err) {
		n = min(nr, DEVMEM_QUERY_BATCH);
		err = devmem_walk_query(&peer, 1, current->mm, addr, n, entries,
					NULL);
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

static int devmem_ioctl_migrate(struct drm_device *drm, void *data,
				struct drm_file *file)
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

/* Collect one peer of each cluster: its walk shows all of the cluster's pages. */
static unsigned int devmem_query_peers(struct pgmap_peer **peers)
{
	unsigned int id, nr = 0, i;

	for (id = 0; id < DEVMEM_MAX_DEVICES; id++) {
		struct devmem_device *dev = devmem_device_find(id);

		/* Nor of one that is half removed. */
		if (!dev || !pgmap_peer_owner_id(&dev->peer))
			continue;
		for (i = 0; i < nr; i++)
			if (pgmap_peers_share(&dev->peer, peers[i]))
				break;
		if (i == nr)
			peers[nr++] = &dev->peer;
	}

	return nr;
}

static int devmem_ioctl_query(struct drm_device *drm, void *data,
			      struct drm_file *file)
{
	struct pgmap_peer *peers[DEVMEM_MAX_DEVICES];
	struct devmem_query *args = data;
	u32 __user *pages = u64_to_user_ptr(args->pages);
	u64 nr = args->len >> PAGE_SHIFT, i, n;
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

		/* No device leaves or changes cluster meanwhile. */
		if (mutex_lock_killable(&devmem_ctl_lock)) {
			err = -EINTR;
			break;
		}
		err = devmem_walk_query(peers, devmem_query_peers(peers),
					current->mm,
					args->addr + (i << PAGE_SHIFT), n,
					entries, NULL);
		mutex_unlock(&devmem_ctl_lock);

		if (!err && copy_to_user(&pages[i], entries, n * sizeof(*entries)))
			err = -EFAULT;
	}

	kvfree(entries);
	return err;
}

static int devmem_ioctl_hold(struct drm_device *drm, void *data,
			     struct drm_file *file)
{
	struct pgmap_peer *peers[DEVMEM_MAX_DEVICES];
	struct devmem_hold *args = data;
	struct folio *folio = NULL;
	unsigned long left;
	u32 entry;
	int err;

	if (args->flags & ~DEVMEM_HOLD_LOCK || !args->ms ||
	    args->ms > 60 * MSEC_PER_SEC)
		return -EINVAL;
	err = devmem_check_range(args->addr, PAGE_SIZE, PAGE_SIZE);
	if (err)
		return err;

	if (mutex_lock_killable(&devmem_ctl_lock))
		return -EINTR;
	err = devmem_walk_query(peers, devmem_query_peers(peers), current->mm,
				args->addr, 1, &entry, &folio);
	mutex_unlock(&devmem_ctl_lock);
	if (!err && !folio)
		err = -ENOENT;
	if (err)
		return err;

	/* No reference to a device: pages are held by those who know of none. */
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

static int devmem_ioctl_stats(struct drm_device *drm, void *data,
			      struct drm_file *file)
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

static const struct drm_ioctl_desc devmem_ioctls[] = {
	DRM_IOCTL_DEF_DRV(DEVMEM_INFO, devmem_ioctl_info, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(DEVMEM_EXEC, devmem_ioctl_exec, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(DEVMEM_MIGRATE, devmem_ioctl_migrate, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(DEVMEM_QUERY, devmem_ioctl_query, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(DEVMEM_STATS, devmem_ioctl_stats, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(DEVMEM_HOLD, devmem_ioctl_hold, DRM_RENDER_ALLOW),
};

static int devmem_open(struct drm_device *drm, struct drm_file *drm_file)
{
	struct devmem_file *file;

	file = kzalloc_obj(*file);
	if (!file)
		return -ENOMEM;

	mutex_init(&file->lock);
	drm_file->driver_priv = file;
	return 0;
}

static void devmem_postclose(struct drm_device *drm, struct drm_file *drm_file)
{
	struct devmem_file *file = drm_file->driver_priv;

	if (file->vm)
		devmem_vm_destroy(file->vm);
	mutex_destroy(&file->lock);
	kfree(file);
}

static const struct file_operations devmem_fops = {
	.owner = THIS_MODULE,
	.open = drm_open,
	.release = drm_release,
	.unlocked_ioctl = drm_ioctl,
	.compat_ioctl = drm_compat_ioctl,
	.poll = drm_poll,
	.read = drm_read,
	.llseek = noop_llseek,
	.fop_flags = FOP_UNSIGNED_OFFSET,
};

static const struct drm_driver devmem_driver = {
	.driver_features = DRIVER_RENDER,
	.open = devmem_open,
	.postclose = devmem_postclose,
	.ioctls = devmem_ioctls,
	.num_ioctls = ARRAY_SIZE(devmem_ioctls),
	.fops = &devmem_fops,
	.name = "drm-devmem",
	.desc = "Virtual GPU with struct page backed memory",
	.major = 1,
	.minor = 0,
};

/* --- devices --- */

/* The device's links change, or it leaves. */
static void devmem_unmap_foreign(struct pgmap_peer *peer)
{
	devmem_vms_invalidate(container_of(peer, struct devmem_device, peer));
}

static const struct pgmap_peer_ops devmem_peer_ops = {
	.unmap_foreign = devmem_unmap_foreign,
	.copy_to_ram = drm_pagemap_copy_to_ram,
	.copy = drm_pagemap_copy,
	.rehome = drm_pagemap_rehome,
};

/* From here on the engines of linked devices can reach the memory. */
static void devmem_device_publish(struct devmem_device *dev)
{
	unsigned int id;

	devmem_topo_add(&devmem_topo, dev->id);
	/* As the fabric has found out when the device joined. */
	for (id = 0; id < DEVMEM_MAX_DEVICES; id++) {
		struct devmem_device *other = devmem_device_find(id);

		if (!other || !devmem_reach_pci(dev, other))
			continue;
		devmem_topo_wire(&devmem_topo, dev->id, id, true);
		devmem_topo_tell(&devmem_topo, dev->id, id, true);
	}
	rcu_assign_pointer(devmem_devices[dev->id], dev);
}

/* When it returns, no engine does any more. */
static void devmem_device_unpublish(struct devmem_device *dev)
{
	devmem_topo_remove(&devmem_topo, dev->id);
	rcu_assign_pointer(devmem_devices[dev->id], NULL);
	synchronize_srcu(&devmem_srcu);
}

/**
 * devmem_device_create() - make a virtual GPU
 * @parent: its hardware
 * @id: a free index in devmem_devices
 * @ops: its backend
 * @priv: for @ops
 * @mem_size: bytes of memory
 * @chunk_size: bytes of a chunk
 * @mem: where the CPU sees the memory if it is coherent, see &pgmap_peer.mem; or NULL
 *
 * Context: May sleep. devmem_ctl_lock is held.
 * Return: The device, or an error pointer.
 */
struct devmem_device *devmem_device_create(struct device *parent, unsigned int id,
					   const struct devmem_backend_ops *ops,
					   void *priv, u64 mem_size, u64 chunk_size,
					   struct resource *mem)
{
	/* Differs from that of the last device with this id. No address is 0. */
	static u16 last_serial;
	struct devmem_device *dev;
	int err;

	lockdep_assert_held(&devmem_ctl_lock);

	dev = __drm_dev_alloc(parent, &devmem_driver, sizeof(*dev),
			      offsetof(struct devmem_device, drm));
	if (IS_ERR(dev))
		return dev;

	dev->id = id;
	if (!++last_serial)
		last_serial = 1;
	dev->serial = last_serial;
	dev->ops = ops;
	dev->priv = priv;
	dev->mem_size = mem_size;
	dev->chunk_size = chunk_size;
	dev->peer.name = dev_name(parent);
	dev->peer.ops = &devmem_peer_ops;
	dev->peer.nid = dev_to_node(parent);
	dev->peer.dev = parent;
	dev->peer.mem = mem;

	err = devmem_dma_probe(dev);
	if (err)
		goto err_drm;

	err = devmem_mem_init(dev);
	if (err)
		goto err_drm;

	err = pgmap_peer_join(&devmem_fabric, &dev->peer, DEVMEM_PROBE_TIMEOUT,
			      NULL);
	if (err)
		goto err_mem;

	err = devmem_mem_register(dev);
	if (err)
		goto err_leave;

	devmem_device_publish(dev);
	err = drm_dev_register(&dev->drm, 0);
	if (err)
		goto err_unpublish;

	return dev;

err_unpublish:
	devmem_device_unpublish(dev);
err_leave:
	pgmap_peer_leave(&dev->peer, PGMAP_FORCE, DEVMEM_PROBE_TIMEOUT, NULL);
err_mem:
	devmem_mem_fini(dev);
err_drm:
	drm_dev_put(&dev->drm);
	return ERR_PTR(err);
}

/**
 * devmem_device_kill() - tear a virtual GPU out
 * @dev: the device
 *
 * Nothing that it holds can be read from now on. It is still to be unplugged, to leave
 * the fabric and to be destroyed.
 *
 * Context: Any; the device is kept. Takes no lock that an operation on the fabric
 *	    holds.
 */
void devmem_device_kill(struct devmem_device *dev)
{
	/* First, so that whatever fails for it is known to be for good. */
	pgmap_peer_set_lost(&dev->peer);
	WRITE_ONCE(dev->dead, true);
}

/**
 * devmem_device_unplug() - end the use of a virtual GPU
 * @dev: the device
 *
 * When it returns requests fail, and nobody uses the device by way of one.
 *
 * Context: May sleep. devmem_ctl_lock is held.
 */
void devmem_device_unplug(struct devmem_device *dev)
{
	lockdep_assert_held(&devmem_ctl_lock);

	if (!drm_dev_is_unplugged(&dev->drm))
		drm_dev_unplug(&dev->drm);
}

/**
 * devmem_device_detach() - end the use of a virtual GPU
 * @dev: the device, which has left the fabric, or as far as that is possible
 *
 * When it returns nobody accesses its memory. Files stay open, and requests fail.
 *
 * Context: May sleep. devmem_ctl_lock is held.
 */
void devmem_device_detach(struct devmem_device *dev)
{
	lockdep_assert_held(&devmem_ctl_lock);

	devmem_device_unpublish(dev);
	/* Waits for whoever is using the chunks; nobody else comes. */
	devmem_device_unplug(dev);
	/* Files stay open, but nothing stays mapped for the device. */
	devmem_vms_invalidate(dev);
}

/* It is detached, has left the fabric, and so nobody refers to its memory. */
void devmem_device_release(struct devmem_device *dev)
{
	devmem_mem_fini(dev);
	drm_dev_put(&dev->drm);
}

/**
 * devmem_device_destroy() - remove a virtual GPU
 * @dev: the device, which has left the fabric
 *
 * Context: May sleep. devmem_ctl_lock is held.
 */
void devmem_device_destroy(struct devmem_device *dev)
{
	devmem_device_detach(dev);
	devmem_device_release(dev);
}

/* Makes the copies of migrations fail when they are done, with the data in place. */
DECLARE_FAULT_ATTR(devmem_fail_copy);
static struct dentry *devmem_fail_dir;

static int __init devmem_init(void)
{
	int err;

	/* Ordered: see devmem_mem.c. */
	devmem_wq = alloc_ordered_workqueue("drm_devmem", 0);
	if (!devmem_wq)
		return -ENOMEM;

	err = devmem_sim_init();
	if (err)
		goto err_wq;
	err = devmem_ctl_init();
	if (err)
		goto err_sim;
	err = devmem_pci_init();
	if (err)
		goto err_ctl;

	devmem_fail_dir = fault_create_debugfs_attr("fail_devmem", NULL,
						    &devmem_fail_copy);
	return 0;

err_ctl:
	devmem_ctl_exit();
err_sim:
	devmem_sim_exit();
err_wq:
	destroy_workqueue(devmem_wq);
	return err;
}

static void __exit devmem_exit(void)
{
	/*
	 * There are no devices: each drm_pagemap holds a reference to the
	 * module. The memory of the last one may be about to be freed.
	 */
	debugfs_remove(devmem_fail_dir);
	devmem_pci_exit();
	devmem_ctl_exit();
	devmem_sim_exit();
	destroy_workqueue(devmem_wq);
}

module_init(devmem_init);
module_exit(devmem_exit);

MODULE_DESCRIPTION("Virtual GPU with struct page backed memory");
MODULE_LICENSE("GPL");
