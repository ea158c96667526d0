// SPDX-License-Identifier: GPL-2.0
/*
 * drm_devmem: the DRM driver and the module.
 *
 * A virtual GPU is a faux device that is made and removed at run time through the misc
 * device in devmem_ctl.c, or a PCI card, see devmem_pci.c. What both do in probe() and
 * remove() is in devmem_device.c.
 */
#include <linux/debugfs.h>
#include <linux/fault-inject.h>
#include <linux/module.h>
#include <linux/slab.h>

#include <drm/drm_drv.h>
#include <drm/drm_file.h>
#include <drm/drm_ioctl.h>

#include "devmem_drv.h"

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

const struct drm_driver devmem_driver = {
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
	/* One device does not wait for the end of another one. */
	devmem_end_wq = alloc_workqueue("drm_devmem_end", WQ_UNBOUND, 0);
	if (!devmem_end_wq) {
		err = -ENOMEM;
		goto err_wq;
	}

	err = devmem_sim_init();
	if (err)
		goto err_end_wq;
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
err_end_wq:
	destroy_workqueue(devmem_end_wq);
err_wq:
	destroy_workqueue(devmem_wq);
	return err;
}

static void __exit devmem_exit(void)
{
	/*
	 * There are no devices: each drm_pagemap holds a reference to the module. The
	 * last device, or its memory, may be about to be freed.
	 */
	debugfs_remove(devmem_fail_dir);
	devmem_pci_exit();
	destroy_workqueue(devmem_end_wq);
	devmem_ctl_exit();
	devmem_sim_exit();
	destroy_workqueue(devmem_wq);
}

module_init(devmem_init);
module_exit(devmem_exit);

MODULE_DESCRIPTION("Virtual GPU with struct page backed memory");
MODULE_LICENSE("GPL");
