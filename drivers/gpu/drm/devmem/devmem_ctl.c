// SPDX-License-Identifier: GPL-2.0
/*
 * The misc device by which tests make virtual GPUs and link them.
 *
 * This is the part of the hardware's administrator: it tells the kernel of a
 * change through the fabric, and carries it out in the model of the hardware. A
 * planned change takes a link down after the kernel has let go of it, a forced
 * one before. No lock is held across either.
 */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include <drm/drm_drv.h>
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
static_assert(DEVMEM_MAX_DEVICES <= PGMAP_MAX_PEERS);
static_assert(DEVMEM_MAX_LINKS == DEVMEM_TOPO_PAIRS);
static_assert(DEVMEM_MAX_SIZE - 1 <= DEVMEM_ADDR_OFFSET);

/**
 * struct devmem_link_op - a change of links under way
 * @entry: in devmem_link_ops
 * @diff: what changes
 * @links: the same, for the core. The peers' devices are referred to
 * @nr: number of entries in @diff and @links
 */
struct devmem_link_op {
	struct list_head entry;
	struct devmem_topo_change *diff;
	struct pgmap_link *links;
	unsigned int nr;
};

/* Protected by devmem_ctl_lock. The number counts those that have ended. */
static LIST_HEAD(devmem_link_ops);
static unsigned long devmem_link_ops_ended;
static DECLARE_WAIT_QUEUE_HEAD(devmem_link_ops_wait);

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
	out->pages_left = stats->pages_left;
	out->peers_moved = stats->peers_moved;
}

static int devmem_ctl_create(void __user *arg)
{
	struct devmem_create args;
	struct devmem_device *dev;
	int err = 0, id;

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

	id = devmem_id_get();
	if (id < 0)
		return id;
	dev = devmem_sim_create(id, args.mem_size, args.chunk_size);
	if (IS_ERR(dev)) {
		devmem_id_put(id);
		return PTR_ERR(dev);
	}

	args.id = id;
	args.render_minor = dev->drm.render->index;
	args.primary_minor = dev->drm.primary->index;
	if (copy_to_user(arg, &args, sizeof(args))) {
		err = -EFAULT;
		/*
		 * The caller does not know the device, so it is removed again. If another
		 * process has found it and holds on to its pages, it stays.
		 */
		devmem_device_remove(dev, 0, DEVMEM_CREATE_TIMEOUT, NULL);
	}
	drm_dev_put(&dev->drm);
	return err;
}

/* A device is lost at once, whatever is under way. */
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

	dev = devmem_device_get(args.id);
	if (!dev)
		err = -ENOENT;
	else if (!devmem_is_sim(dev))
		err = -EOPNOTSUPP;
	else
		err = devmem_device_remove(dev,
					   args.flags & DEVMEM_FORCE ? PGMAP_FORCE : 0,
					   timeout, &stats);
	if (dev)
		drm_dev_put(&dev->drm);

	devmem_ctl_stats(&args.stats, &stats);
	if (copy_to_user(arg, &args, sizeof(args)))
		err = -EFAULT;
	return err;
}

/* --- links --- */

static void devmem_link_op_free(struct devmem_link_op *op)
{
	unsigned int i;

	for (i = 0; op->links && i < op->nr; i++) {
		drm_dev_put(&devmem_peer_device(op->links[i].a)->drm);
		drm_dev_put(&devmem_peer_device(op->links[i].b)->drm);
	}
	kvfree(op->links);
	kvfree(op->diff);
}

/* Can these links change? Devices that have left the fabric have none. */
static int devmem_links_check(const struct devmem_topo_change *changes, unsigned int nr)
{
	unsigned int i;

	lockdep_assert_held(&devmem_ctl_lock);

	for (i = 0; i < nr; i++) {
		struct devmem_device *a = devmem_device_find(changes[i].a);
		struct devmem_device *b = devmem_device_find(changes[i].b);

		if (!a || !b || !pgmap_peer_owner_id(&a->peer) ||
		    !pgmap_peer_owner_id(&b->peer))
			return -ENOENT;
		/* A card can be linked only where PCI allows it. */
		if (changes[i].up && !(devmem_is_sim(a) && devmem_is_sim(b)) &&
		    !devmem_reach_pci(a, b))
			return -EOPNOTSUPP;
	}
	return 0;
}

/* Is an operation under way that changes one of these links the other way? */
static bool devmem_links_conflict(const struct devmem_topo_change *changes,
				  unsigned int nr)
{
	struct devmem_link_op *op;
	unsigned int i, j;

	lockdep_assert_held(&devmem_ctl_lock);

	list_for_each_entry(op, &devmem_link_ops, entry)
		for (i = 0; i < op->nr; i++)
			for (j = 0; j < nr; j++)
				if (changes[j].up != op->diff[i].up &&
				    min(changes[j].a, changes[j].b) == op->diff[i].a &&
				    max(changes[j].a, changes[j].b) == op->diff[i].b)
					return true;
	return false;
}

/*
 * Take devmem_ctl_lock when none of the links is being changed the other way. Operations
 * in the same direction run at once: the core ends the first when the second comes.
 */
static int devmem_links_lock(const struct devmem_topo_change *changes, unsigned int nr,
			     unsigned long deadline)
{
	unsigned long ended;
	long left;
	int err;

	for (;;) {
		if (mutex_lock_killable(&devmem_ctl_lock))
			return -EINTR;
		err = devmem_links_check(changes, nr);
		if (!err && !devmem_links_conflict(changes, nr))
			return 0;
		ended = devmem_link_ops_ended;
		mutex_unlock(&devmem_ctl_lock);
		if (err)
			return err;
		left = deadline - jiffies;
		if (left <= 0)
			return -EBUSY;
		left = wait_event_killable_timeout(devmem_link_ops_wait,
						   ended != READ_ONCE(devmem_link_ops_ended),
						   left);
		if (left < 0)
			return -EINTR;
	}
}

/* Begin a change of links: what comes up works from now on, what is dead does not. */
static int devmem_link_op_begin(struct devmem_link_op *op,
				const struct devmem_topo_change *changes,
				unsigned int nr, bool force)
{
	unsigned int i;

	lockdep_assert_held(&devmem_ctl_lock);

	op->nr = devmem_topo_diff(&devmem_topo, changes, nr, op->diff);
	op->links = kvmalloc_objs(*op->links, max(op->nr, 1));
	if (!op->links)
		return -ENOMEM;
	for (i = 0; i < op->nr; i++) {
		struct devmem_topo_change *diff = &op->diff[i];
		struct devmem_device *a = devmem_device_find(diff->a);
		struct devmem_device *b = devmem_device_find(diff->b);

		drm_dev_get(&a->drm);
		drm_dev_get(&b->drm);
		op->links[i] = (struct pgmap_link){ &a->peer, &b->peer, diff->up };
		if (diff->up || force)
			devmem_topo_wire(&devmem_topo, diff->a, diff->b, diff->up);
	}
	list_add(&op->entry, &devmem_link_ops);
	return 0;
}

/*
 * End it. A change that failed has changed nothing, except that links that are dead stay
 * dead. Ids of devices that were removed meanwhile may be those of other devices now.
 */
static void devmem_link_op_end(struct devmem_link_op *op, int err)
{
	unsigned int i;

	mutex_lock(&devmem_ctl_lock);
	list_del(&op->entry);
	for (i = 0; i < op->nr; i++) {
		struct devmem_topo_change *diff = &op->diff[i];

		if (devmem_device_find(diff->a) != devmem_peer_device(op->links[i].a) ||
		    devmem_device_find(diff->b) != devmem_peer_device(op->links[i].b))
			continue;
		if (!err) {
			devmem_topo_tell(&devmem_topo, diff->a, diff->b, diff->up);
			devmem_topo_wire(&devmem_topo, diff->a, diff->b, diff->up);
		} else if (diff->up && !(devmem_topo.told[diff->a] & BIT_ULL(diff->b))) {
			devmem_topo_wire(&devmem_topo, diff->a, diff->b, false);
		}
	}
	WRITE_ONCE(devmem_link_ops_ended, devmem_link_ops_ended + 1);
	mutex_unlock(&devmem_ctl_lock);
	wake_up_all(&devmem_link_ops_wait);
}

/* Change links that differ from what they are now, as one operation. */
static int devmem_links_change(const struct devmem_topo_change *changes, unsigned int nr,
			       bool force, unsigned long timeout,
			       struct pgmap_stats *stats)
{
	unsigned long deadline = jiffies + timeout;
	struct devmem_link_op op = {};
	int err;

	op.diff = kvmalloc_objs(*op.diff, DEVMEM_TOPO_PAIRS);
	if (!op.diff)
		return -ENOMEM;
	err = devmem_links_lock(changes, nr, deadline);
	if (err)
		goto out_free;
	err = devmem_link_op_begin(&op, changes, nr, force);
	mutex_unlock(&devmem_ctl_lock);
	if (err) {
		op.nr = 0;
		goto out_free;
	}

	if (op.nr) {
		timeout = time_before(jiffies, deadline) ? deadline - jiffies : 0;
		err = pgmap_fabric_set_links(&devmem_fabric, op.links, op.nr,
					     force ? PGMAP_FORCE : 0, timeout, stats);
		/* A device has left meanwhile. */
		if (err == -EINVAL)
			err = -ENOENT;
	}
	devmem_link_op_end(&op, err);
out_free:
	devmem_link_op_free(&op);
	return err;
}

static int devmem_ctl_links(void __user *arg)
{
	struct devmem_topo_change *changes;
	struct pgmap_stats stats = {};
	struct devmem_set_links args;
	struct devmem_link *links;
	unsigned long timeout;
	unsigned int i;
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
	if (!changes) {
		err = -ENOMEM;
		goto out_free;
	}

	for (i = 0; i < args.nr; i++) {
		if (links[i].a == links[i].b || links[i].up > 1 || links[i].pad)
			err = -EINVAL;
		else if (max(links[i].a, links[i].b) >= DEVMEM_MAX_DEVICES)
			err = err ?: -ENOENT;
		changes[i] = (struct devmem_topo_change){ links[i].a, links[i].b,
							  links[i].up };
	}
	if (err)
		goto out_free;

	err = devmem_links_change(changes, args.nr, args.flags & DEVMEM_FORCE, timeout,
				  &stats);
	devmem_ctl_stats(&args.stats, &stats);
	if (copy_to_user(arg, &args, sizeof(args)))
		err = -EFAULT;
out_free:
	kvfree(changes);
	kvfree(links);
	return err;
}

static void devmem_topology_fill(struct devmem_topology_entry *entry,
				 struct devmem_device *dev)
{
	*entry = (struct devmem_topology_entry){
		.id = dev->id,
		.render_minor = dev->drm.render->index,
		.owner_id = pgmap_peer_owner_id(&dev->peer),
		.mem_size = dev->mem_size,
		.resident_pages = atomic64_read(&dev->allocated),
		.links = READ_ONCE(devmem_topo.told[dev->id]),
		.left_pages = pgmap_peer_pages_left(&dev->peer),
	};
}

static int devmem_ctl_topology(void __user *arg)
{
	struct devmem_device *devs[DEVMEM_MAX_DEVICES];
	struct devmem_topology_entry __user *entries;
	struct devmem_topology_entry entry;
	struct devmem_topology args;
	unsigned int nr, i;
	int err = 0;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.flags)
		return -EINVAL;

	entries = u64_to_user_ptr(args.entries);
	nr = devmem_devices_get(devs, false);
	for (i = 0; i < min(nr, args.nr) && !err; i++) {
		devmem_topology_fill(&entry, devs[i]);
		if (copy_to_user(&entries[i], &entry, sizeof(entry)))
			err = -EFAULT;
	}
	devmem_devices_put(devs, nr);

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
