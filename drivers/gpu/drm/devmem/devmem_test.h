/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Test interface of drm_devmem, the virtual GPUs that exercise device memory
 * with struct pages.
 *
 * This is no user API: it stands outside of include/uapi, changes whenever the
 * tests need something else, and is only shared with
 * tools/testing/selftests/devmem.
 *
 * The rules that hold for every request:
 *
 * - Unknown flags, non-zero padding, misaligned addresses or lengths, a length
 *   of zero and a range that wraps around are EINVAL, before anything is done.
 * - A pointer to user memory that the kernel can't read or write is EFAULT.
 * - Fields marked (out) are ignored on input.
 * - A page is PAGE_SIZE, as the CPU has it; counts of pages are in
 *   that unit, also for 2 MiB folios.
 * - A device id is between 0 and DEVMEM_MAX_DEVICES - 1. The lowest free one is
 *   taken, so an id may be used again after DEVMEM_IOC_DESTROY.
 */
#ifndef _DRM_DEVMEM_TEST_H_
#define _DRM_DEVMEM_TEST_H_

#ifdef __KERNEL__
#include <drm/drm.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#else
#include <linux/ioctl.h>
#include <linux/types.h>
/* DRM's numbers, so that the tests need no libdrm. */
#ifndef DRM_IOCTL_BASE
#define DRM_IOCTL_BASE		'd'
#endif
#ifndef DRM_COMMAND_BASE
#define DRM_COMMAND_BASE	0x40
#endif
#endif

#define DEVMEM_MAX_DEVICES	64

/* ------------------------------------------------------------------------- */
/* Control: the misc device. Opening it takes CAP_SYS_ADMIN (EPERM).          */

#define DEVMEM_CTL_PATH		"/dev/drm_devmem"

/**
 * struct devmem_op_stats - what an operation on the interconnect did
 * @pages_rehomed: pages that got another struct page; no byte was copied
 * @pages_evacuated: pages that were copied to system memory
 * @pages_poisoned: pages that were lost: the CPU gets SIGBUS there, a device EFAULT
 * @bytes_copied: bytes that were copied for it
 * @stall_ns: longest time that faults of a device were held up: 0, as none are
 * @peers_moved: devices whose owner changed
 * @pages_left: pages that could not be moved in time; they are moved later
 */
struct devmem_op_stats {
	__u64 pages_rehomed;
	__u64 pages_evacuated;
	__u64 pages_poisoned;
	__u64 bytes_copied;
	__u64 stall_ns;
	__u64 peers_moved;
	__u64 pages_left;
};

/**
 * struct devmem_create - DEVMEM_IOC_CREATE: add a device
 * @mem_size: bytes of device memory, a multiple of 2 MiB from 16 MiB to 64 GiB
 * @chunk_size: bytes that are registered as one piece; a multiple of 2 MiB, and
 *	at most @mem_size. 0: 64 MiB, or @mem_size if that is less. The last
 *	chunk may be smaller. (out) what was taken
 * @flags: must be 0
 * @id: (out) the device
 * @render_minor: (out) N of /dev/dri/renderDN
 * @primary_minor: (out) N of /dev/dri/cardN
 *
 * The new device has no links: it is a cluster of its own.
 *
 * Errors: EINVAL, EFAULT, ENOMEM, ENOSPC (all ids are in use), EINTR.
 */
struct devmem_create {
	__u64 mem_size;
	__u64 chunk_size;
	__u32 flags;
	__u32 id;
	__u32 render_minor;
	__u32 primary_minor;
};

/*
 * DESTROY: pages that cannot be moved in time are lost. If a page stays locked or referred
 * to even then, which is EBUSY, the device has left its cluster; it goes when the last page
 * is free. DESTROY can be repeated, and tries again.
 * LINK: the links that go down are dead already, so nothing is moved before they are cut.
 */
#define DEVMEM_FORCE		0x1
/* DESTROY: the device is lost, at once, with what its memory holds. */
#define DEVMEM_LOST		0x2

/**
 * struct devmem_destroy - DEVMEM_IOC_DESTROY: remove a device
 * @id: the device
 * @flags: 0, or %DEVMEM_FORCE, %DEVMEM_LOST, which implies it, or both
 * @timeout_ms: give up after this time; 0: after 10 seconds. At most 60000.
 * @pad: must be 0
 * @stats: (out) what was done, also if it failed
 *
 * The contents of its memory are moved to system memory. Open files stay open,
 * and answer ENODEV from then on.
 *
 * Errors: EINVAL, EFAULT, EINTR, ENOENT (no such device), EBUSY (not done in
 * time; everything works as before), ENOMEM (no system memory to move to;
 * everything works as before), EIO (the device failed to copy, or was lost
 * meanwhile; else as before).
 */
struct devmem_destroy {
	__u32 id;
	__u32 flags;
	__u32 timeout_ms;
	__u32 pad;
	struct devmem_op_stats stats;
};

/**
 * struct devmem_link - one change of a link
 * @a: id of one end
 * @b: id of the other end, not @a
 * @up: 1: can use each other's memory from now on; 0: no longer can
 * @pad: must be 0
 */
struct devmem_link {
	__u32 a;
	__u32 b;
	__u32 up;
	__u32 pad;
};

#define DEVMEM_MAX_LINKS	(DEVMEM_MAX_DEVICES * (DEVMEM_MAX_DEVICES - 1) / 2)

/**
 * struct devmem_set_links - DEVMEM_IOC_LINK: change links, as one operation
 * @links: pointer to @nr struct devmem_link
 * @nr: at least 1, at most %DEVMEM_MAX_LINKS
 * @flags: 0 or %DEVMEM_FORCE
 * @timeout_ms: give up after this time; 0: after 10 seconds. At most 60000.
 * @pad: must be 0
 * @stats: (out) what was done, also if it failed
 *
 * A later entry for the same pair overrides an earlier one. Setting a link to
 * what it is does nothing and is no error.
 *
 * Errors: EINVAL (also a == b, up > 1, nr of 0 or too large), EFAULT, EINTR,
 * ENOENT (no such device), EOPNOTSUPP (no way between two cards), ENOMEM, EBUSY (a link
 * is being changed the other way all the time). Then nothing has changed. Pages that
 * cannot be moved in time are no error, see @pages_left of &struct devmem_op_stats.
 */
struct devmem_set_links {
	__u64 links;
	__u32 nr;
	__u32 flags;
	__u32 timeout_ms;
	__u32 pad;
	struct devmem_op_stats stats;
};

/**
 * struct devmem_topology_entry - one device, as DEVMEM_IOC_TOPOLOGY shows it
 * @id: the device
 * @render_minor: N of /dev/dri/renderDN
 * @owner_id: its cluster. Equal for two devices if and only if they use each
 *	other's memory in place. Never used again for another cluster.
 * @mem_size: bytes of device memory
 * @resident_pages: pages of its memory that are allocated
 * @links: bit i is set if the link to device i is up; its own bit is clear
 * @left_pages: pages of its memory that wait to be moved, see @pages_left of
 *	&struct devmem_op_stats
 */
struct devmem_topology_entry {
	__u32 id;
	__u32 render_minor;
	__u64 owner_id;
	__u64 mem_size;
	__u64 resident_pages;
	__u64 links;
	__u64 left_pages;
};

/**
 * struct devmem_topology - DEVMEM_IOC_TOPOLOGY: all devices, by id
 * @entries: pointer to room for @nr struct devmem_topology_entry
 * @nr: room on input; on output how many devices there are. Entries that there
 *	is no room for are left out.
 * @flags: must be 0
 *
 * Errors: EINVAL, EFAULT, EINTR.
 */
struct devmem_topology {
	__u64 entries;
	__u32 nr;
	__u32 flags;
};

#define DEVMEM_IOC_CREATE	_IOWR(0xDE, 0x00, struct devmem_create)
#define DEVMEM_IOC_DESTROY	_IOWR(0xDE, 0x01, struct devmem_destroy)
#define DEVMEM_IOC_LINK		_IOWR(0xDE, 0x02, struct devmem_set_links)
#define DEVMEM_IOC_TOPOLOGY	_IOWR(0xDE, 0x03, struct devmem_topology)

/* ------------------------------------------------------------------------- */
/*
 * A device: its render node.
 *
 * An open file is one address space of the device. It belongs to the process
 * that makes the first request EXEC or MIGRATE; from another
 * process EXEC and MIGRATE are EINVAL from then on. After the device has been
 * removed, every request is ENODEV.
 */

/**
 * struct devmem_info - DRM_IOCTL_DEVMEM_INFO: what the device is
 * @flags: must be 0
 * @id: (out) the device
 * @owner_id: (out) as in struct devmem_topology_entry
 * @mem_size: (out) bytes of device memory
 * @chunk_size: (out) bytes that are registered as one piece
 * @mem_free: (out) bytes of device memory that are not allocated
 *
 * Errors: EINVAL, EFAULT, ENODEV.
 */
struct devmem_info {
	__u32 flags;
	__u32 id;
	__u64 owner_id;
	__u64 mem_size;
	__u64 chunk_size;
	__u64 mem_free;
};

/* Word i of @dst becomes @value (+ i with DEVMEM_EXEC_COUNT). */
#define DEVMEM_OP_FILL		0
/* @dst becomes a copy of @src. The ranges must not overlap. */
#define DEVMEM_OP_COPY		1
/* @result is the sum of word[i] * (2 * i + 1) over @src, modulo 2^64. */
#define DEVMEM_OP_CHECKSUM	2
/*
 * Add @value to every word of @dst, each an atomic operation with regard to all
 * devices and CPUs. @result is what the last word was before.
 */
#define DEVMEM_OP_ATOMIC_ADD	3

/* DEVMEM_OP_FILL: add the word's index to the value. */
#define DEVMEM_EXEC_COUNT	0x1

/**
 * struct devmem_exec - DRM_IOCTL_DEVMEM_EXEC: run one command on the engine
 * @op: DEVMEM_OP_*
 * @flags: DEVMEM_EXEC_*
 * @dst: address in the calling process; must be 0 for CHECKSUM
 * @src: address in the calling process; must be 0 for FILL and ATOMIC_ADD
 * @len: bytes
 * @value: operand; must be 0 for COPY and CHECKSUM
 * @result: (out) as the operation says, else 0
 * @done: (out) bytes that were dealt with; @len on success
 *
 * A word is a little-endian __u64. @dst, @src and @len are multiples of 8. The
 * engine reads and writes through the device's page table, and faults pages in
 * as it goes; it moves none to the device. Returns when the command is done.
 *
 * Errors: EINVAL (also an unknown op), EFAULT (no memory there, or no
 * permission), EIO (the engine used a link that is down: see @link_errors and
 * @violations in struct devmem_stats), EINTR (a fatal signal), ENOMEM, EBUSY (a
 * page could not be faulted in for ten seconds), ENODEV. Up to @done bytes were
 * dealt with, in ascending order, and @result is theirs.
 */
struct devmem_exec {
	__u32 op;
	__u32 flags;
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 value;
	__u64 result;
	__u64 done;
};

/* One of the two: */
#define DEVMEM_MIGRATE_TO_DEVICE	0x1
#define DEVMEM_MIGRATE_TO_SYSTEM	0x2

/**
 * struct devmem_migrate - DRM_IOCTL_DEVMEM_MIGRATE: move pages
 * @addr: address in the calling process, a multiple of PAGE_SIZE
 * @len: bytes, a multiple of PAGE_SIZE
 * @flags: %DEVMEM_MIGRATE_TO_DEVICE or %DEVMEM_MIGRATE_TO_SYSTEM
 * @pad: must be 0
 * @pages: (out) pages of the range that are there now; also if it failed
 *
 * To the device: anonymous memory only; what can't be moved (other kinds of
 * memory, pinned pages, no memory on the device) stays where it is.
 * Pages of other devices of the cluster are moved too, those beyond it stay.
 * Untouched private memory is allocated on the device, zeroed.
 * To system memory: pages of all devices in the range.
 *
 * Errors: EINVAL, EFAULT (the range has a hole; or for TO_SYSTEM no permission
 * to read), ENOSPC (to the device: nothing was there or could be moved, for
 * lack of memory on the device), ENOMEM, EINTR (a fatal signal), EBUSY (to
 * system memory: not all could be moved), EIO (a copy between devices used a
 * link that is down, as for EXEC), ENODEV.
 */
struct devmem_migrate {
	__u64 addr;
	__u64 len;
	__u32 flags;
	__u32 pad;
	__u64 pages;
};

/*
 * Where a page lives: kind, device id if that is DEVMEM_PAGE_DEVICE, and
 * whether it is mapped by the CPU's page table as a whole 2 MiB folio.
 */
#define DEVMEM_PAGE_NONE	0	/* nothing there, or swapped out */
#define DEVMEM_PAGE_SYSTEM	1
#define DEVMEM_PAGE_DEVICE	2
#define DEVMEM_PAGE_OTHER	3	/* memory of some other driver */
#define DEVMEM_PAGE_KIND(e)	((e) & 0xff)
#define DEVMEM_PAGE_ID(e)	(((e) >> 8) & 0xff)
#define DEVMEM_PAGE_HUGE	0x10000

/**
 * struct devmem_query - DRM_IOCTL_DEVMEM_QUERY: where does each page live?
 * @addr: address in the calling process, a multiple of PAGE_SIZE
 * @len: bytes, a multiple of PAGE_SIZE
 * @pages: pointer to room for one __u32 a page
 * @flags: must be 0
 * @pad: must be 0
 *
 * Nothing is faulted in or moved. Holes are %DEVMEM_PAGE_NONE. Any device can
 * be asked; the answers name all devices.
 *
 * Errors: EINVAL, EFAULT, ENOMEM, EINTR (a fatal signal), ENODEV.
 */
struct devmem_query {
	__u64 addr;
	__u64 len;
	__u64 pages;
	__u32 flags;
	__u32 pad;
};

/* Keep the page locked, not just referred to. */
#define DEVMEM_HOLD_LOCK	0x1

/**
 * struct devmem_hold - DRM_IOCTL_DEVMEM_HOLD: stand in the way of a page
 * @addr: address in the calling process, a multiple of PAGE_SIZE
 * @flags: 0 or %DEVMEM_HOLD_LOCK
 * @ms: for how long; 1 to 60000
 *
 * What another part of the kernel might do: holds on to a page of device memory,
 * and returns when it has let go of it. The device that is asked need not be the
 * one that has the page, nor stay.
 *
 * Errors: EINVAL, EFAULT (no address of user space), ENOENT (no device memory
 * there), ENOMEM, EINTR (a fatal signal), ENODEV.
 */
struct devmem_hold {
	__u64 addr;
	__u32 flags;
	__u32 ms;
};

/**
 * struct devmem_stats - DRM_IOCTL_DEVMEM_STATS: counters since creation
 * @flags: must be 0
 * @pad: must be 0
 * @device_faults: faults of the engine
 * @fault_retries: how often a fault began again, because pages moved or the
 *	device changed cluster meanwhile
 * @mapped_system: pages of system memory mapped by faults
 * @mapped_local: pages of its own memory mapped by faults
 * @mapped_peer: pages of other devices' memory mapped in place by faults
 * @migrated_in: pages that came to this device's memory by copy, or zeroed
 * @migrated_out: pages of this device's memory copied to system memory
 * @evictions: allocations pushed out to make room
 * @bytes_copied: bytes copied to, from and between memories of devices
 * @bytes_dma: bytes that a DMA engine copied for EXEC, and not the CPU
 * @link_errors: accesses of the engine through a link that died by
 *	%DEVMEM_FORCE, or to a device that died by %DEVMEM_LOST, while the kernel
 *	was still being told. 0 without either.
 * @violations: accesses of the engine through a link after it was taken down,
 *	or to memory of a device that has left. Must be 0, always.
 *
 * Errors: EINVAL, EFAULT, ENODEV.
 */
struct devmem_stats {
	__u32 flags;
	__u32 pad;
	__u64 device_faults;
	__u64 fault_retries;
	__u64 mapped_system;
	__u64 mapped_local;
	__u64 mapped_peer;
	__u64 migrated_in;
	__u64 migrated_out;
	__u64 evictions;
	__u64 bytes_copied;
	__u64 bytes_dma;
	__u64 link_errors;
	__u64 violations;
};

#define DRM_DEVMEM_INFO		0x00
#define DRM_DEVMEM_EXEC		0x01
#define DRM_DEVMEM_MIGRATE	0x02
#define DRM_DEVMEM_QUERY	0x03
#define DRM_DEVMEM_STATS	0x04
#define DRM_DEVMEM_HOLD		0x05

#define DEVMEM_DRM_IOWR(nr, type) \
	_IOWR(DRM_IOCTL_BASE, DRM_COMMAND_BASE + (nr), type)

#define DRM_IOCTL_DEVMEM_INFO		\
	DEVMEM_DRM_IOWR(DRM_DEVMEM_INFO, struct devmem_info)
#define DRM_IOCTL_DEVMEM_EXEC		\
	DEVMEM_DRM_IOWR(DRM_DEVMEM_EXEC, struct devmem_exec)
#define DRM_IOCTL_DEVMEM_MIGRATE	\
	DEVMEM_DRM_IOWR(DRM_DEVMEM_MIGRATE, struct devmem_migrate)
#define DRM_IOCTL_DEVMEM_QUERY		\
	DEVMEM_DRM_IOWR(DRM_DEVMEM_QUERY, struct devmem_query)
#define DRM_IOCTL_DEVMEM_STATS		\
	DEVMEM_DRM_IOWR(DRM_DEVMEM_STATS, struct devmem_stats)
#define DRM_IOCTL_DEVMEM_HOLD		\
	DEVMEM_DRM_IOWR(DRM_DEVMEM_HOLD, struct devmem_hold)

#endif /* _DRM_DEVMEM_TEST_H_ */
