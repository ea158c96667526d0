// SPDX-License-Identifier: GPL-2.0
/*
 * The engine of a virtual GPU: runs commands over a process' address range,
 * through the device's own page table, one page at a time.
 */
#include <linux/bitfield.h>
#include <linux/highmem.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>

#include <drm/drm_drv.h>

#include "devmem_drv.h"

/**
 * struct devmem_target - what an address on the interconnect leads to
 * @dev: whose memory
 * @offset: in the memory of @dev
 * @srcu: to leave
 */
struct devmem_target {
	struct devmem_device *dev;
	u64 offset;
	int srcu;
};

/*
 * Route an access of @dev. The page table said that it is fine; what counts here
 * is whether the hardware carries it, see devmem_topo.c. On success the memory
 * stays until devmem_target_put().
 */
static int devmem_target_get(struct devmem_device *dev, u64 addr,
			     struct devmem_target *target)
{
	unsigned int id = FIELD_GET(DEVMEM_ADDR_ID, addr);
	struct devmem_device *to;

	target->srcu = srcu_read_lock(&devmem_srcu);
	to = srcu_dereference(devmem_devices[id], &devmem_srcu);
	if (!to || to->serial != FIELD_GET(DEVMEM_ADDR_SERIAL, addr))
		goto err_violation;

	switch (devmem_topo_reach(&devmem_topo, dev->id, id)) {
	case DEVMEM_REACH_OK:
		break;
	case DEVMEM_REACH_DEAD:
		atomic64_inc(&dev->counters.link_errors);
		goto err_unlock;
	case DEVMEM_REACH_NONE:
		goto err_violation;
	}

	target->dev = to;
	target->offset = FIELD_GET(DEVMEM_ADDR_OFFSET, addr);
	return 0;

err_violation:
	atomic64_inc(&dev->counters.violations);
err_unlock:
	srcu_read_unlock(&devmem_srcu, target->srcu);
	return -EIO;
}

/* The access is over. -EIO if it did not arrive, as the memory is dead. */
static int devmem_target_put(struct devmem_device *dev,
			     struct devmem_target *target)
{
	bool alive = devmem_alive(target->dev);

	if (!alive)
		atomic64_inc(&dev->counters.link_errors);
	srcu_read_unlock(&devmem_srcu, target->srcu);
	return alive ? 0 : -EIO;
}

/**
 * devmem_access() - one access of a device to memory
 * @dev: the device whose engine it is
 * @pte: leads to the page
 * @offset: in the page
 * @buf: kernel memory to read into or write from
 * @len: length; within the page
 * @write: direction
 *
 * Context: The page can't go away.
 * Return: 0, or -EIO if the access did not arrive.
 */
int devmem_access(struct devmem_device *dev, u64 pte, unsigned int offset,
		  void *buf, size_t len, bool write)
{
	u64 addr = (pte & DEVMEM_PTE_ADDR) + offset;
	struct devmem_target target;
	int err;

	if (!(pte & DEVMEM_PTE_DEVICE)) {
		struct page *page = devmem_dma_page(dev, addr);

		if (write)
			memcpy_to_page(page, offset, buf, len);
		else
			memcpy_from_page(buf, page, offset, len);
		return 0;
	}

	err = devmem_target_get(dev, addr, &target);
	if (err)
		return err;
	if (write)
		target.dev->ops->write(target.dev, target.offset, buf, len);
	else
		target.dev->ops->read(target.dev, target.offset, buf, len);
	return devmem_target_put(dev, &target);
}

static int devmem_access_atomic_add(struct devmem_device *dev, u64 pte,
				    unsigned int offset, u64 value, u64 *old)
{
	u64 addr = (pte & DEVMEM_PTE_ADDR) + offset;
	struct devmem_target target;
	int err;

	if (!(pte & DEVMEM_PTE_DEVICE)) {
		void *page = kmap_local_page(devmem_dma_page(dev, addr));

		*old = atomic64_fetch_add(value, page + offset);
		kunmap_local(page);
		return 0;
	}

	err = devmem_target_get(dev, addr, &target);
	if (err)
		return err;
	*old = target.dev->ops->atomic_add(target.dev, target.offset, value);
	return devmem_target_put(dev, &target);
}

/* Where an operand is; if on a device, devmem_target_put() is owed. */
static int devmem_place_get(struct devmem_device *dev, u64 pte, unsigned int offset,
			    struct devmem_target *target, struct devmem_place *place)
{
	u64 addr = (pte & DEVMEM_PTE_ADDR) + offset;
	int err;

	*place = (struct devmem_place){ .offset = offset };
	if (!(pte & DEVMEM_PTE_DEVICE)) {
		place->page = devmem_dma_page(dev, addr);
		return 0;
	}

	err = devmem_target_get(dev, addr, target);
	if (err)
		return err;
	place->dev = target->dev;
	place->offset = target->offset;
	return 0;
}

/* A copy by the device's DMA engine. -EOPNOTSUPP: the CPU has to do it. */
static int devmem_access_dma(struct devmem_device *dev, u64 dst_pte, unsigned int dst,
			     u64 src_pte, unsigned int src, size_t len)
{
	struct devmem_target from, to;
	struct devmem_place in, out;
	int err, ret;

	if (!dev->ops->dma)
		return -EOPNOTSUPP;

	err = devmem_place_get(dev, src_pte, src, &from, &in);
	if (err)
		return err;
	err = devmem_place_get(dev, dst_pte, dst, &to, &out);
	if (err)
		goto out_put;

	err = dev->ops->dma(dev, &out, &in, len);
	/* If all is in memory of other devices, the card of the engine is not asked elsewhere. */
	if (!err && !devmem_alive(dev))
		err = -ENODEV;
	if (!err)
		atomic64_add(len, &dev->counters.bytes_dma);
	ret = out.dev ? devmem_target_put(dev, &to) : 0;
	err = ret ?: err;
out_put:
	ret = in.dev ? devmem_target_put(dev, &from) : 0;
	return ret ?: err;
}

/* The next @len bytes, which lie within one page of each operand. */
static int devmem_engine_run(struct devmem_vm *vm, struct devmem_exec *exec,
			     u64 src_pte, u64 dst_pte, size_t len)
{
	unsigned int src = offset_in_page(exec->src + exec->done);
	unsigned int dst = offset_in_page(exec->dst + exec->done);
	u64 index = exec->done / sizeof(u64), old;
	__le64 *words = vm->buf;
	struct devmem_device *dev = vm->dev;
	size_t i, nr = len / sizeof(u64);
	int err;

	switch (exec->op) {
	case DEVMEM_OP_FILL:
		for (i = 0; i < nr; i++) {
			u64 word = exec->value;

			if (exec->flags & DEVMEM_EXEC_COUNT)
				word += index + i;
			words[i] = cpu_to_le64(word);
		}
		return devmem_access(dev, dst_pte, dst, words, len, true);

	case DEVMEM_OP_COPY:
		err = devmem_access_dma(dev, dst_pte, dst, src_pte, src, len);
		if (err != -EOPNOTSUPP)
			return err;
		err = devmem_access(dev, src_pte, src, words, len, false);
		if (err)
			return err;
		return devmem_access(dev, dst_pte, dst, words, len, true);

	case DEVMEM_OP_CHECKSUM:
		err = devmem_access(dev, src_pte, src, words, len, false);
		if (err)
			return err;
		for (i = 0; i < nr; i++)
			exec->result += le64_to_cpu(words[i]) *
					(2 * (index + i) + 1);
		return 0;

	default:
		for (i = 0; i < nr; i++) {
			err = devmem_access_atomic_add(dev, dst_pte,
						       dst + i * sizeof(u64),
						       exec->value, &old);
			if (err)
				return err;
			exec->result = old;
			/* Word by word: what was added is not added again. */
			exec->done += sizeof(u64);
		}
		return 0;
	}
}

static bool devmem_op_reads(u32 op)
{
	return op == DEVMEM_OP_COPY || op == DEVMEM_OP_CHECKSUM;
}

static bool devmem_op_writes(u32 op)
{
	return op != DEVMEM_OP_CHECKSUM;
}

/* One step. -EAGAIN with @fault set: that address is to be faulted in. */
static int devmem_engine_step(struct devmem_vm *vm, struct devmem_exec *exec,
			      unsigned long *fault, bool *fault_write)
{
	unsigned long src = exec->src + exec->done, dst = exec->dst + exec->done;
	u64 len = exec->len - exec->done, src_pte = 0, dst_pte = 0;
	int err = -EAGAIN, idx;

	if (!drm_dev_enter(&vm->dev->drm, &idx))
		return -ENODEV;
	if (!devmem_alive(vm->dev)) {
		drm_dev_exit(idx);
		return -ENODEV;
	}

	drm_gpusvm_notifier_lock(&vm->svm);
	if (devmem_op_reads(exec->op)) {
		len = min_t(u64, len, PAGE_SIZE - offset_in_page(src));
		src_pte = devmem_vm_lookup(vm, src);
		if (!(src_pte & DEVMEM_PTE_VALID)) {
			*fault = src;
			*fault_write = false;
			goto out_unlock;
		}
	}
	if (devmem_op_writes(exec->op)) {
		len = min_t(u64, len, PAGE_SIZE - offset_in_page(dst));
		dst_pte = devmem_vm_lookup(vm, dst);
		if (!(dst_pte & DEVMEM_PTE_WRITE)) {
			*fault = dst;
			*fault_write = true;
			goto out_unlock;
		}
	}

	err = devmem_engine_run(vm, exec, src_pte, dst_pte, len);
	if (!err && exec->op != DEVMEM_OP_ATOMIC_ADD)
		exec->done += len;

out_unlock:
	drm_gpusvm_notifier_unlock(&vm->svm);
	drm_dev_exit(idx);
	return err;
}

/**
 * devmem_engine_exec() - run a command
 * @vm: the address space
 * @exec: the command, which has been checked; result and done begin at 0
 *
 * Context: May sleep; takes &devmem_vm.lock.
 * Return: 0 or one of the errors of DRM_IOCTL_DEVMEM_EXEC.
 */
int devmem_engine_exec(struct devmem_vm *vm, struct devmem_exec *exec)
{
	unsigned long fault, deadline;
	bool fault_write;
	int err = 0;

	if (mutex_lock_killable(&vm->lock))
		return -EINTR;

	deadline = jiffies + DEVMEM_FAULT_TIMEOUT;
	while (exec->done < exec->len && !err) {
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}

		err = devmem_engine_step(vm, exec, &fault, &fault_write);
		if (!err)
			deadline = jiffies + DEVMEM_FAULT_TIMEOUT;
		if (err == -EAGAIN)
			err = devmem_vm_fault(vm, fault, fault_write);
		/* drm_gpusvm gives up earlier. */
		if (err == -EBUSY && time_before(jiffies, deadline))
			err = 0;
		cond_resched();
	}

	mutex_unlock(&vm->lock);
	return err;
}
