// SPDX-License-Identifier: GPL-2.0
/*
 * Virtual GPUs: how they appear and disappear, and the registry of those that are there.
 *
 * A device leaves the fabric first, while it works. Then its id is taken out of the
 * registry. The rest is up to a work item: it waits for the sections that use the device,
 * and a thread that gets no CPU can be in one.
 */
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/srcu.h>

#include <drm/drm_drv.h>
#include <drm/drm_print.h>

#include "devmem_drv.h"

/* No pages are there to be moved when a device fails to appear. */
#define DEVMEM_CREATE_TIMEOUT	(10 * HZ)
/* The time between two attempts to free pages of a device that has left. */
#define DEVMEM_END_RETRY	(HZ / 2)

/* Protects the registry and the topology. Held for bookkeeping only. */
DEFINE_MUTEX(devmem_ctl_lock);
/* Keeps a device that is found in devmem_devices, and its chunks. */
DEFINE_SRCU(devmem_srcu);
/* By id. Written under devmem_ctl_lock, read under devmem_srcu. */
struct devmem_device __rcu *devmem_devices[DEVMEM_MAX_DEVICES];
/* Ids that are in use, by devices before and after they are in devmem_devices too. */
static DECLARE_BITMAP(devmem_ids, DEVMEM_MAX_DEVICES);
/* Written under devmem_ctl_lock. */
struct devmem_topo devmem_topo;
struct pgmap_fabric devmem_fabric;
struct workqueue_struct *devmem_end_wq;

/* --- the registry --- */

static struct devmem_device *devmem_device_at(unsigned int id)
{
	return rcu_dereference_protected(devmem_devices[id],
					 lockdep_is_held(&devmem_ctl_lock));
}

/**
 * devmem_device_find() - find a device by its id
 * @id: the id
 *
 * Context: devmem_ctl_lock is held.
 * Return: The device; NULL if there is none, or if it is not ready.
 */
struct devmem_device *devmem_device_find(unsigned int id)
{
	struct devmem_device *dev = id < DEVMEM_MAX_DEVICES ? devmem_device_at(id) : NULL;

	return dev && READ_ONCE(dev->registered) ? dev : NULL;
}

/**
 * devmem_id_get() - reserve an id for a device
 *
 * Context: May sleep.
 * Return: The lowest id that is free, or -ENOSPC.
 */
int devmem_id_get(void)
{
	unsigned int id;

	guard(mutex)(&devmem_ctl_lock);
	id = find_first_zero_bit(devmem_ids, DEVMEM_MAX_DEVICES);
	if (id == DEVMEM_MAX_DEVICES)
		return -ENOSPC;
	__set_bit(id, devmem_ids);
	return id;
}

void devmem_id_put(unsigned int id)
{
	guard(mutex)(&devmem_ctl_lock);
	__clear_bit(id, devmem_ids);
}

/**
 * devmem_device_get() - find a device by its id, and refer to it
 * @id: the id
 *
 * Context: May sleep.
 * Return: The device, referred to until drm_dev_put(); or NULL.
 */
struct devmem_device *devmem_device_get(unsigned int id)
{
	struct devmem_device *dev;

	guard(mutex)(&devmem_ctl_lock);
	dev = devmem_device_find(id);
	if (dev)
		drm_dev_get(&dev->drm);
	return dev;
}

/**
 * devmem_devices_get() - collect devices
 * @devs: (out) room for %DEVMEM_MAX_DEVICES
 * @each_cluster: one of each cluster: its walk shows all of the cluster's pages
 *
 * Devices that have left the fabric are of no cluster.
 *
 * Context: May sleep.
 * Return: Their number. They are referred to, until devmem_devices_put().
 */
unsigned int devmem_devices_get(struct devmem_device **devs, bool each_cluster)
{
	unsigned int id, nr = 0, i;

	guard(mutex)(&devmem_ctl_lock);
	for (id = 0; id < DEVMEM_MAX_DEVICES; id++) {
		struct devmem_device *dev = devmem_device_find(id);

		if (!dev || (each_cluster && !pgmap_peer_owner_id(&dev->peer)))
			continue;
		for (i = 0; i < nr && each_cluster; i++)
			if (pgmap_peers_share(&dev->peer, &devs[i]->peer))
				break;
		if (each_cluster && i < nr)
			continue;
		drm_dev_get(&dev->drm);
		devs[nr++] = dev;
	}
	return nr;
}

void devmem_devices_put(struct devmem_device **devs, unsigned int nr)
{
	while (nr--)
		drm_dev_put(&devs[nr]->drm);
}

/* From here on the engines of linked devices can reach the memory. */
static void devmem_device_publish(struct devmem_device *dev)
{
	unsigned int id;

	guard(mutex)(&devmem_ctl_lock);
	devmem_topo_add(&devmem_topo, dev->id);
	/* As the fabric has found out when the device joined. */
	for (id = 0; id < DEVMEM_MAX_DEVICES; id++) {
		struct devmem_device *other = devmem_device_at(id);

		if (!other || !devmem_reach_pci(dev, other))
			continue;
		devmem_topo_wire(&devmem_topo, dev->id, id, true);
		devmem_topo_tell(&devmem_topo, dev->id, id, true);
	}
	rcu_assign_pointer(devmem_devices[dev->id], dev);
}

/* From here on no request and no engine finds the device. */
static void devmem_device_hide(struct devmem_device *dev)
{
	guard(mutex)(&devmem_ctl_lock);
	if (devmem_device_at(dev->id) != dev)
		return;
	devmem_topo_remove(&devmem_topo, dev->id);
	rcu_assign_pointer(devmem_devices[dev->id], NULL);
}

/* --- the end of a device --- */

/**
 * devmem_device_kill() - tear a virtual GPU out
 * @dev: the device
 *
 * Nothing that it holds can be read from now on. It still has to be removed.
 *
 * Context: Any; the device is kept. Takes no lock, so it does not wait for an operation
 *	    that is under way.
 */
void devmem_device_kill(struct devmem_device *dev)
{
	/* First, so that whatever fails for it is known to be for good. */
	pgmap_peer_set_lost(&dev->peer);
	WRITE_ONCE(dev->dead, true);
}

/**
 * devmem_device_quiesce() - end the use of a device that has left the fabric
 * @dev: the device
 *
 * When it returns, no thread accesses its memory, except a CPU through a reference to a
 * page of coherent memory. Files stay open, and requests fail.
 *
 * Context: May sleep. Waits for sections that use the device.
 */
void devmem_device_quiesce(struct devmem_device *dev)
{
	guard(mutex)(&dev->end_lock);
	devmem_device_hide(dev);
	synchronize_srcu(&devmem_srcu);
	if (!drm_dev_is_unplugged(&dev->drm))
		drm_dev_unplug(&dev->drm);
	/* Nothing stays mapped for the device. */
	devmem_vms_invalidate(dev);
}

/* The device has left the fabric, and no page of it is in use. */
static void devmem_end_work(struct work_struct *work)
{
	struct devmem_device *dev = container_of(work, struct devmem_device, end);

	disable_delayed_work_sync(&dev->leftover);
	devmem_device_quiesce(dev);
	devmem_mem_fini(dev);
	dev->ops->end(dev);
	devmem_id_put(dev->id);
	complete_all(&dev->ended);
	drm_dev_put(&dev->drm);
}

/* The device has left the fabric, but pages were locked or referred to. */
static void devmem_leftover_work(struct work_struct *work)
{
	struct devmem_device *dev = container_of(to_delayed_work(work),
						 struct devmem_device, leftover);
	struct pgmap_stats stats = {};
	int err = pgmap_peer_leave(&dev->peer, PGMAP_FORCE, 1, &stats);

	if (stats.pages_poisoned)
		drm_info(&dev->drm, "removal: %llu more pages are lost\n",
			 stats.pages_poisoned);
	if (err == -EBUSY)
		queue_delayed_work(devmem_end_wq, &dev->leftover, DEVMEM_END_RETRY);
	else if (!err)
		queue_work(devmem_end_wq, &dev->end);
	/* Otherwise another caller was faster. */
}

/**
 * devmem_device_remove() - remove a virtual GPU
 * @dev: the device; the caller refers to it
 * @flags: as for pgmap_peer_leave()
 * @timeout: as for pgmap_peer_leave(), in jiffies
 * @stats: as for pgmap_peer_leave()
 *
 * The device works until its memory is empty. If pages are in use when the time is up, a
 * device that is lost, or removed by force, has left the fabric all the same: a work item
 * frees the pages when that is possible, and then the device.
 *
 * Context: May sleep.
 * Return: 0 if the device is gone, or ends as soon as the last thread stops using it;
 *	   -ENOENT if another caller removes it; or an error of pgmap_peer_leave().
 */
int devmem_device_remove(struct devmem_device *dev, unsigned int flags,
			 unsigned long timeout, struct pgmap_stats *stats)
{
	int err = pgmap_peer_leave(&dev->peer, flags, timeout, stats);

	/* One caller gets 0, as the peer does not join again. */
	if (!err) {
		devmem_device_hide(dev);
		queue_work(devmem_end_wq, &dev->end);
		wait_for_completion_killable_timeout(&dev->ended, max(timeout, HZ / 10UL));
		return 0;
	}
	if (err == -EBUSY && (flags & PGMAP_FORCE || pgmap_peer_is_lost(&dev->peer)))
		queue_delayed_work(devmem_end_wq, &dev->leftover, DEVMEM_END_RETRY);
	return err == -ENODEV ? -ENOENT : err;
}

/* --- the beginning of a device --- */

/* The device's links change, or it leaves. */
static void devmem_unmap_foreign(struct pgmap_peer *peer)
{
	devmem_vms_invalidate(devmem_peer_device(peer));
}

static const struct pgmap_peer_ops devmem_peer_ops = {
	.unmap_foreign = devmem_unmap_foreign,
	.copy_to_ram = drm_pagemap_copy_to_ram,
	.rehome = drm_pagemap_rehome,
};

static void devmem_device_init(struct devmem_device *dev,
			       const struct devmem_config *config)
{
	/* Differs from that of the last device with this id. No address is 0. */
	static atomic_t last_serial;
	u16 serial;

	do {
		serial = atomic_inc_return(&last_serial);
	} while (!serial);

	dev->id = config->id;
	dev->serial = serial;
	dev->ops = config->ops;
	dev->priv = config->priv;
	dev->at = config->at;
	dev->mem_size = config->mem_size;
	dev->chunk_size = config->chunk_size;
	dev->peer.name = dev_name(dev->drm.dev);
	dev->peer.ops = &devmem_peer_ops;
	dev->peer.nid = dev_to_node(dev->drm.dev);
	dev->peer.dev = dev->drm.dev;
	dev->peer.mem = config->mem;
	mutex_init(&dev->end_lock);
	init_completion(&dev->ended);
	INIT_WORK(&dev->end, devmem_end_work);
	INIT_DELAYED_WORK(&dev->leftover, devmem_leftover_work);
}

/**
 * devmem_device_create() - make a virtual GPU
 * @parent: its hardware
 * @config: what it is like
 *
 * Context: May sleep.
 * Return: The device, with a reference for the caller; or an error pointer, and then
 *	   what @config refers to is the caller's.
 */
struct devmem_device *devmem_device_create(struct device *parent,
					   const struct devmem_config *config)
{
	struct devmem_device *dev;
	int err;

	dev = __drm_dev_alloc(parent, &devmem_driver, sizeof(*dev),
			      offsetof(struct devmem_device, drm));
	if (IS_ERR(dev))
		return dev;
	devmem_device_init(dev, config);

	err = devmem_dma_probe(dev);
	if (err)
		goto err_drm;
	err = devmem_mem_init(dev);
	if (err)
		goto err_drm;
	err = pgmap_peer_join(&devmem_fabric, &dev->peer, NULL);
	if (err)
		goto err_mem;
	err = devmem_mem_register(dev);
	if (err)
		goto err_leave;

	devmem_device_publish(dev);
	err = drm_dev_register(&dev->drm, 0);
	if (err)
		goto err_hide;
	/* For the caller: from the next line on, another one can remove the device. */
	drm_dev_get(&dev->drm);
	WRITE_ONCE(dev->registered, true);
	return dev;

err_hide:
	devmem_device_hide(dev);
	synchronize_srcu(&devmem_srcu);
err_leave:
	/* Cannot fail: there is no page in use. */
	pgmap_peer_leave(&dev->peer, PGMAP_FORCE, DEVMEM_CREATE_TIMEOUT, NULL);
err_mem:
	devmem_mem_fini(dev);
err_drm:
	drm_dev_put(&dev->drm);
	return ERR_PTR(err);
}
