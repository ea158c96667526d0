// SPDX-License-Identifier: GPL-2.0
/*
 * The misc device by which tests make virtual GPUs and link them.
 *
 * This is the part of the hardware's administrator: it tells the kernel of a
 * change through the fabric, and carries it out in the model of the hardware. A
 * planned change takes a link down after the kernel has let go of it, a forced
 * one before.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <drm/drm_file.h>

#include "devmem_drv.h"

#define DEVMEM_MIN_SIZE		SZ_16M
#define DEVMEM_MAX_SIZE		SZ_64G
#define DEVMEM_DEFAULT_CHUNK	SZ_64M

/* To take back a device that has just been made. */
#define DEVMEM_CREATE_TIMEOUT	(10 * HZ)

#define DEVMEM_DEFAULT_TIMEOUT_MS	(10 * MSEC_PER_SEC)
#define DEVMEM_MAX_TIMEOUT_MS		(60 * MSEC_PER_SEC)

static_assert(DEVMEM_MAX_DEVICES == DEVMEM_TOPO_NODES);
static_assert(DEVMEM_MAX_DEVICES <= PGMAP_FABRIC_MAX_PEERS);
static_assert(DEVMEM_MAX_LINKS == DEVMEM_TOPO_PAIRS);
static_assert(DEVMEM_MAX_SIZE - 1 <= DEVMEM_ADDR_OFFSET);

/* Serialises everything that adds, removes or links devices. */
DEFINE_MUTEX(devmem_ctl_lock);
/* Keeps a device that is found in devmem_devices, and its chunks. */
DEFINE_SRCU(devmem_srcu);
/* By id. Written under devmem_ctl_lock, read under devmem_srcu. */
struct devmem_device __rcu *devmem_devices[DEVMEM_MAX_DEVICES];
/* Written under devmem_ctl_lock. */
struct devmem_topo devmem_topo;
struct pgmap_fabric devmem_fabric;

/* The lowest index that is free, or DEVMEM_MAX_DEVICES. devmem_ctl_lock is held. */
unsigned int devmem_free_id(void)
{
	unsigned int id;

	for (id = 0; id < DEVMEM_MAX_DEVICES; id++)
		if (!devmem_device_find(id))
			break;
	return id;
}

/* One that has been removed by force, but not to the end, has no links. */
static struct devmem_device *devmem_ctl_can_link(unsigned int id)
{
	struct devmem_device *dev = devmem_device_find(id);

	return dev && pgmap_peer_owner_id(&dev->peer) ? dev : NULL;
}

static bool devmem_ctl_timeout(u32 ms, unsigned long *timeout)
{
	if (ms > DEVMEM_MAX_TIMEOUT_MS)
		return false;
	*timeout = msecs_to_jiffies(ms ?: DEVMEM_DEFAULT_TIMEOUT_MS);
	return true;
}

static void devmem_ctl_stats(struct devmem_op_stats *out,
			     const struct pgmap_stats *stats)
{
	out->pages_rehomed = stats->pages_rehomed;
	out->pages_evacuated = stats->pages_evacuated;
	out->pages_poisoned = stats->pages_poisoned;
	out->bytes_copied = stats->bytes_copied;
	out->stall_ns = stats->stall_ns;
	out->peers_moved = stats->peers_moved;
}

static int devmem_ctl_create(void __user *arg)
{
	struct devmem_create args;
	struct devmem_device *dev;
	unsigned int id;
	int err = 0;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (!args.chunk_size)
		args.chunk_size = min_t(u64, args.mem_size, DEVMEM_DEFAULT_CHUNK);
	if (args.flags || args.mem_size < DEVMEM_MIN_SIZE ||
	    args.mem_size > DEVMEM_MAX_SIZE ||
	    !IS_ALIGNED(args.mem_size, DEVMEM_HUGE_SIZE) ||
	    args.chunk_size > args.mem_size ||
	    !IS_ALIGNED(args.chunk_size, DEVMEM_HUGE_SIZE))
		return -EINVAL;
	/* Rather an error here than the OOM killer elsewhere. */
	if (!devmem_sim_is_coherent() &&
	    args.mem_size >> PAGE_SHIFT > si_mem_available())
		return -ENOMEM;

	if (mutex_lock_killable(&devmem_ctl_lock))
		return -EINTR;

	id = devmem_free_id();
	if (id == DEVMEM_MAX_DEVICES) {
		err = -ENOSPC;
		goto out_unlock;
	}

	dev = devmem_sim_create(id, args.mem_size, args.chunk_size);
	if (IS_ERR(dev)) {
		err = PTR_ERR(dev);
		goto out_unlock;
	}

	args.id = id;
	args.render_minor = dev->drm.render->index;
	args.primary_minor = dev->drm.primary->index;
	if (!copy_to_user(arg, &args, sizeof(args)))
		goto out_unlock;

	/*
	 * Nobody knows of it, so it goes again. Should somebody have found and
	 * used it meanwhile, and hold on to its pages, it stays.
	 */
	err = -EFAULT;
	if (!pgmap_peer_leave(&dev->peer, 0, DEVMEM_CREATE_TIMEOUT, NULL))
		devmem_sim_destroy(dev);

out_unlock:
	mutex_unlock(&devmem_ctl_lock);
	return err;
}

/* Without devmem_ctl_lock: no hardware waits for a topology change to end. */
static void devmem_ctl_kill(unsigned int id)
{
	struct devmem_device *dev = NULL;
	int idx;

	idx = srcu_read_lock(&devmem_srcu);
	if (id < DEVMEM_MAX_DEVICES)
		dev = srcu_dereference(devmem_devices[id], &devmem_srcu);
	if (dev && devmem_is_sim(dev))
		devmem_device_kill(dev);
	srcu_read_unlock(&devmem_srcu, idx);
}

static int devmem_ctl_destroy(void __user *arg)
{
	struct pgmap_stats stats = {};
	struct devmem_destroy args;
	struct devmem_device *dev;
	unsigned long timeout;
	int err;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.flags & ~(DEVMEM_FORCE | DEVMEM_LOST) || args.pad ||
	    !devmem_ctl_timeout(args.timeout_ms, &timeout))
		return -EINVAL;

	if (args.flags & DEVMEM_LOST)
		devmem_ctl_kill(args.id);

	if (mutex_lock_killable(&devmem_ctl_lock))
		return -EINTR;

	dev = devmem_device_find(args.id);
	if (!dev || !devmem_is_sim(dev)) {
		err = dev ? -EOPNOTSUPP : -ENOENT;
		goto out_unlock;
	}

	if (args.flags & DEVMEM_LOST)
		devmem_device_unplug(dev);
	/* Else it works until the kernel has let go of its memory. */
	err = pgmap_peer_leave(&dev->peer,
			       args.flags & DEVMEM_FORCE ? PGMAP_FORCE : 0,
			       timeout, &stats);
	if (!err)
		devmem_sim_destroy(dev);

out_unlock:
	mutex_unlock(&devmem_ctl_lock);
	devmem_ctl_stats(&args.stats, &stats);
	if (copy_to_user(arg, &args, sizeof(args)))
		err = -EFAULT;
	return err;
}

/* Change links that differ from what they are now, as one operation. */
static int devmem_ctl_apply(const struct devmem_topo_change *diff,
			    unsigned int nr, bool force, unsigned long timeout,
			    struct pgmap_stats *stats)
{
	struct pgmap_link *links;
	unsigned int i;
	int err;

	lockdep_assert_held(&devmem_ctl_lock);

	links = kvmalloc_objs(*links, nr);
	if (!links)
		return -ENOMEM;

	for (i = 0; i < nr; i++) {
		links[i].a = &devmem_device_find(diff[i].a)->peer;
		links[i].b = &devmem_device_find(diff[i].b)->peer;
		links[i].up = diff[i].up;
		if (diff[i].up || force)
			devmem_topo_wire(&devmem_topo, diff[i].a, diff[i].b,
					 diff[i].up);
	}

	err = pgmap_fabric_set_links(&devmem_fabric, links, nr,
				     force ? PGMAP_FORCE : 0, timeout, stats);

	for (i = 0; i < nr; i++) {
		if (!err)
			devmem_topo_tell(&devmem_topo, diff[i].a, diff[i].b,
					 diff[i].up);
		/*
		 * A planned change that failed has changed nothing. A forced one
		 * has, and can be repeated, for the kernel has not been told.
		 */
		if (!err || (!force && diff[i].up))
			devmem_topo_wire(&devmem_topo, diff[i].a, diff[i].b,
					 !err && diff[i].up);
	}

	kvfree(links);
	return err;
}

static int devmem_ctl_links(void __user *arg)
{
	struct devmem_topo_change *changes, *diff;
	struct pgmap_stats stats = {};
	struct devmem_set_links args;
	struct devmem_link *links;
	unsigned long timeout;
	unsigned int i, nr;
	int err = 0;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.flags & ~DEVMEM_FORCE || args.pad || !args.nr ||
	    args.nr > DEVMEM_MAX_LINKS ||
	    !devmem_ctl_timeout(args.timeout_ms, &timeout))
		return -EINVAL;

	links = vmemdup_array_user(u64_to_user_ptr(args.links), args.nr,
				   sizeof(*links));
	if (IS_ERR(links))
		return PTR_ERR(links);
	changes = kvmalloc_objs(*changes, args.nr);
	diff = kvmalloc_objs(*diff, DEVMEM_TOPO_PAIRS);
	if (!changes || !diff) {
		err = -ENOMEM;
		goto out_free;
	}

	for (i = 0; i < args.nr; i++) {
		if (links[i].a == links[i].b || links[i].up > 1 || links[i].pad) {
			err = -EINVAL;
			goto out_free;
		}
	}

	if (mutex_lock_killable(&devmem_ctl_lock)) {
		err = -EINTR;
		goto out_free;
	}
	for (i = 0; i < args.nr; i++) {
		struct devmem_device *a = devmem_ctl_can_link(links[i].a);
		struct devmem_device *b = devmem_ctl_can_link(links[i].b);

		if (!a || !b) {
			err = -ENOENT;
			goto out_unlock;
		}
		/* Who is on a bus needs one. */
		if (links[i].up && !(devmem_is_sim(a) && devmem_is_sim(b)) &&
		    !devmem_reach_pci(a, b)) {
			err = -EOPNOTSUPP;
			goto out_unlock;
		}
		changes[i].a = links[i].a;
		changes[i].b = links[i].b;
		changes[i].up = links[i].up;
	}

	nr = devmem_topo_diff(&devmem_topo, changes, args.nr, diff);
	if (nr)
		err = devmem_ctl_apply(diff, nr, args.flags & DEVMEM_FORCE,
				       timeout, &stats);

out_unlock:
	mutex_unlock(&devmem_ctl_lock);
	devmem_ctl_stats(&args.stats, &stats);
	if (copy_to_user(arg, &args, sizeof(args)))
		err = -EFAULT;
out_free:
	kvfree(diff);
	kvfree(changes);
	kvfree(links);
	return err;
}

static int devmem_ctl_topology(void __user *arg)
{
	struct devmem_topology_entry __user *entries;
	struct devmem_topology args;
	unsigned int id, nr = 0;
	int err = 0;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.flags)
		return -EINVAL;

	entries = u64_to_user_ptr(args.entries);
	if (mutex_lock_killable(&devmem_ctl_lock))
		return -EINTR;

	for (id = 0; id < DEVMEM_MAX_DEVICES; id++) {
		struct devmem_topology_entry entry = { .id = id };
		struct devmem_device *dev = devmem_device_find(id);

		if (!dev)
			continue;
		if (nr < args.nr) {
			entry.render_minor = dev->drm.render->index;
			entry.owner_id = pgmap_peer_owner_id(&dev->peer);
			entry.mem_size = dev->mem_size;
			entry.resident_pages = atomic64_read(&dev->allocated);
			entry.links = devmem_topo.told[id];
			if (copy_to_user(&entries[nr], &entry, sizeof(entry))) {
				err = -EFAULT;
				break;
			}
		}
		nr++;
	}
	mutex_unlock(&devmem_ctl_lock);

	args.nr = nr;
	if (!err && copy_to_user(arg, &args, sizeof(args)))
		err = -EFAULT;
	return err;
}

static long devmem_ctl_ioctl(struct file *file, unsigned int cmd,
			     unsigned long arg)
{
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case DEVMEM_IOC_CREATE:
		return devmem_ctl_create(user);
	case DEVMEM_IOC_DESTROY:
		return devmem_ctl_destroy(user);
	case DEVMEM_IOC_LINK:
		return devmem_ctl_links(user);
	case DEVMEM_IOC_TOPOLOGY:
		return devmem_ctl_topology(user);
	default:
		return -ENOTTY;
	}
}

static int devmem_ctl_open(struct inode *inode, struct file *file)
{
	return capable(CAP_SYS_ADMIN) ? 0 : -EPERM;
}

static const struct file_operations devmem_ctl_fops = {
	.owner = THIS_MODULE,
	.open = devmem_ctl_open,
	.unlocked_ioctl = devmem_ctl_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice devmem_ctl_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "drm_devmem",
	.fops = &devmem_ctl_fops,
	.mode = 0600,
};

/* Cards have the links that PCI gives them; those of others are set by hand. */
static const struct pgmap_fabric_ops devmem_fabric_ops = {
	.linked = pgmap_peer_reaches_pci,
};

int devmem_ctl_init(void)
{
	pgmap_fabric_init(&devmem_fabric, "drm-devmem", &devmem_fabric_ops);

	return misc_register(&devmem_ctl_misc);
}

void devmem_ctl_exit(void)
{
	misc_deregister(&devmem_ctl_misc);
}
