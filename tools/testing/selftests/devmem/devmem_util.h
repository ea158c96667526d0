/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of drm_devmem, their demonstration and the soak test share: thin
 * wrappers of the requests, and memory with known contents.
 *
 * Everything here returns 0 or a negative errno, prints nothing and does not
 * exit.
 */
#ifndef _DEVMEM_UTIL_H_
#define _DEVMEM_UTIL_H_

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#include "../../../../drivers/gpu/drm/devmem/devmem_test.h"

/* drm_devmem depends on PAGE_SIZE_4KB. */
#define DM_PAGE		4096UL
#define DM_MIB		(1024 * 1024UL)
#define DM_HUGE		(2 * DM_MIB)
#define DM_WORD		sizeof(__u64)

/**
 * struct dm_dev - a device, and a file of it
 * @fd: its render node, or -1
 * @id: see struct devmem_create
 * @minor: N of /dev/dri/renderDN
 */
struct dm_dev {
	int fd;
	__u32 id;
	__u32 minor;
};

/* --- requests --- */

static inline int dm_ioctl(int fd, unsigned long cmd, void *arg)
{
	return ioctl(fd, cmd, arg) ? -errno : 0;
}

static inline int dm_open(__u32 minor)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/dri/renderD%u", minor);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static inline int dm_destroy_within(int ctl, __u32 id, __u32 flags,
				    __u32 timeout_ms,
				    struct devmem_op_stats *stats)
{
	struct devmem_destroy args = {
		.id = id,
		.flags = flags,
		.timeout_ms = timeout_ms,
	};
	int err = dm_ioctl(ctl, DEVMEM_IOC_DESTROY, &args);

	if (stats)
		*stats = args.stats;
	return err;
}

static inline int dm_destroy(int ctl, __u32 id, __u32 flags,
			     struct devmem_op_stats *stats)
{
	return dm_destroy_within(ctl, id, flags, 0, stats);
}

static inline int dm_create(int ctl, __u64 mem_size, __u64 chunk_size,
			    struct dm_dev *dev)
{
	struct devmem_create args = {
		.mem_size = mem_size,
		.chunk_size = chunk_size,
	};
	int err = dm_ioctl(ctl, DEVMEM_IOC_CREATE, &args);

	dev->fd = -1;
	if (err)
		return err;
	dev->id = args.id;
	dev->minor = args.render_minor;
	dev->fd = dm_open(dev->minor);
	if (dev->fd >= 0)
		return 0;

	err = dev->fd;
	dev->fd = -1;
	dm_destroy(ctl, dev->id, 0, NULL);
	return err;
}

static inline int dm_links_within(int ctl, const struct devmem_link *links,
				  __u32 nr, __u32 flags, __u32 timeout_ms,
				  struct devmem_op_stats *stats)
{
	struct devmem_set_links args = {
		.links = (__u64)(unsigned long)links,
		.nr = nr,
		.flags = flags,
		.timeout_ms = timeout_ms,
	};
	int err = dm_ioctl(ctl, DEVMEM_IOC_LINK, &args);

	if (stats)
		*stats = args.stats;
	return err;
}

static inline int dm_links(int ctl, const struct devmem_link *links, __u32 nr,
			   __u32 flags, struct devmem_op_stats *stats)
{
	return dm_links_within(ctl, links, nr, flags, 0, stats);
}

/* Returns the number of devices. Up to @nr of them are in @entries. */
static inline int dm_topology(int ctl, struct devmem_topology_entry *entries,
			      __u32 nr)
{
	struct devmem_topology args = {
		.entries = (__u64)(unsigned long)entries,
		.nr = nr,
	};
	int err = dm_ioctl(ctl, DEVMEM_IOC_TOPOLOGY, &args);

	return err ?: (int)args.nr;
}

/* Leftovers of all devices: pages that wait to be moved; or a negative errno. */
static inline long dm_pages_left(int ctl)
{
	struct devmem_topology_entry entries[DEVMEM_MAX_DEVICES];
	int nr = dm_topology(ctl, entries, DEVMEM_MAX_DEVICES), i;
	long pages = 0;

	for (i = 0; i < nr; i++)
		pages += entries[i].left_pages;
	return nr < 0 ? nr : pages;
}

static inline int dm_info(int fd, struct devmem_info *info)
{
	memset(info, 0, sizeof(*info));
	return dm_ioctl(fd, DRM_IOCTL_DEVMEM_INFO, info);
}

static inline int dm_stats(int fd, struct devmem_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	return dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS, stats);
}

static inline int dm_exec(int fd, struct devmem_exec *exec)
{
	return dm_ioctl(fd, DRM_IOCTL_DEVMEM_EXEC, exec);
}

/* Word i becomes @value + i. */
static inline int dm_fill(int fd, void *dst, size_t len, __u64 value)
{
	struct devmem_exec exec = {
		.op = DEVMEM_OP_FILL,
		.flags = DEVMEM_EXEC_COUNT,
		.dst = (__u64)(unsigned long)dst,
		.len = len,
		.value = value,
	};

	return dm_exec(fd, &exec);
}

static inline int dm_add(int fd, void *dst, size_t len, __u64 value)
{
	struct devmem_exec exec = {
		.op = DEVMEM_OP_ATOMIC_ADD,
		.dst = (__u64)(unsigned long)dst,
		.len = len,
		.value = value,
	};

	return dm_exec(fd, &exec);
}

static inline int dm_copy(int fd, void *dst, const void *src, size_t len)
{
	struct devmem_exec exec = {
		.op = DEVMEM_OP_COPY,
		.dst = (__u64)(unsigned long)dst,
		.src = (__u64)(unsigned long)src,
		.len = len,
	};

	return dm_exec(fd, &exec);
}

static inline int dm_checksum(int fd, const void *src, size_t len, __u64 *sum)
{
	struct devmem_exec exec = {
		.op = DEVMEM_OP_CHECKSUM,
		.src = (__u64)(unsigned long)src,
		.len = len,
	};
	int err = dm_exec(fd, &exec);

	*sum = exec.result;
	return err;
}

/* Returns how many pages of the range are there afterwards. */
static inline long dm_migrate(int fd, void *addr, size_t len, __u32 flags)
{
	struct devmem_migrate args = {
		.addr = (__u64)(unsigned long)addr,
		.len = len,
		.flags = flags,
	};
	int err = dm_ioctl(fd, DRM_IOCTL_DEVMEM_MIGRATE, &args);

	return err ?: (long)args.pages;
}

static inline int dm_query(int fd, const void *addr, size_t len, __u32 *pages)
{
	struct devmem_query args = {
		.addr = (__u64)(unsigned long)addr,
		.len = len,
		.pages = (__u64)(unsigned long)pages,
	};

	return dm_ioctl(fd, DRM_IOCTL_DEVMEM_QUERY, &args);
}

/**
 * struct dm_where - how many pages of a range are where
 * @none: nowhere
 * @system: system memory
 * @other: memory of other drivers
 * @huge: pages in folios that are mapped as a whole
 * @device: by device id
 */
struct dm_where {
	unsigned long none, system, other, huge;
	unsigned long device[DEVMEM_MAX_DEVICES];
};

static inline int dm_where(int fd, const void *addr, size_t len,
			   struct dm_where *where)
{
	size_t nr = len / DM_PAGE, i;
	__u32 *pages;
	int err;

	memset(where, 0, sizeof(*where));
	pages = malloc(nr * sizeof(*pages));
	if (!pages)
		return -ENOMEM;

	err = dm_query(fd, addr, len, pages);
	for (i = 0; i < nr && !err; i++) {
		switch (DEVMEM_PAGE_KIND(pages[i])) {
		case DEVMEM_PAGE_NONE:
			where->none++;
			break;
		case DEVMEM_PAGE_SYSTEM:
			where->system++;
			break;
		case DEVMEM_PAGE_DEVICE:
			where->device[DEVMEM_PAGE_ID(pages[i]) %
				      DEVMEM_MAX_DEVICES]++;
			break;
		default:
			where->other++;
		}
		if (pages[i] & DEVMEM_PAGE_HUGE)
			where->huge++;
	}

	free(pages);
	return err;
}

/* --- contents --- */

static inline __u64 dm_mix(__u64 x)
{
	x += 0x9e3779b97f4a7c15ULL;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static inline __u64 dm_rnd(__u64 *state)
{
	*state += 0x9e3779b97f4a7c15ULL;
	return dm_mix(*state);
}

/**
 * struct dm_area - memory whose contents are known
 * @mem: the memory, aligned to 2 MiB
 * @len: its length
 * @block: length of a block; a multiple of the size of a page
 * @nr: number of blocks
 * @base: what is expected: word i of block b is @base[b] + i
 *
 * The base of a block is a mix of the block's number, of its writer and of the
 * number of the write. So the tests notice stale, lost, misplaced and torn data.
 * A device can still write a block with one command, and its checksum can be
 * computed without reading the memory.
 */
struct dm_area {
	unsigned char *mem;
	size_t len;
	size_t block;
	size_t nr;
	__u64 *base;
};

static inline int dm_area_init(struct dm_area *area, size_t len, size_t block,
			       bool huge)
{
	size_t room = len + DM_HUGE, head;
	unsigned char *mem;

	area->base = calloc(len / block, sizeof(*area->base));
	if (!area->base)
		return -ENOMEM;

	mem = mmap(NULL, room, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED) {
		free(area->base);
		return -ENOMEM;
	}
	head = -(unsigned long)mem % DM_HUGE;
	if (head)
		munmap(mem, head);
	munmap(mem + head + len, room - head - len);

	area->mem = mem + head;
	area->len = len;
	area->block = block;
	area->nr = len / block;
	/* Fails where there are no huge pages; then they are small anyway. */
	madvise(area->mem, len, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return 0;
}

static inline void dm_area_fini(struct dm_area *area)
{
	munmap(area->mem, area->len);
	free(area->base);
}

static inline void *dm_block(const struct dm_area *area, size_t b)
{
	return area->mem + b * area->block;
}

/* A base that block @b has not had before. */
static inline __u64 dm_fresh(size_t b, __u64 stripe, __u64 generation)
{
	return dm_mix(dm_mix(dm_mix(generation) + stripe) + b);
}

static inline void dm_block_write(struct dm_area *area, size_t b, __u64 base)
{
	__u64 *words = dm_block(area, b);
	size_t i;

	for (i = 0; i < area->block / DM_WORD; i++)
		words[i] = base + i;
	area->base[b] = base;
}

/* Returns how many bytes of a block are wrong. */
static inline size_t dm_block_wrong(const struct dm_area *area, size_t b)
{
	const __u64 *words = dm_block(area, b);
	size_t i, wrong = 0;

	for (i = 0; i < area->block / DM_WORD; i++) {
		__u64 diff = words[i] ^ (area->base[b] + i);

		for (; diff; diff >>= 8)
			wrong += !!(diff & 0xff);
	}
	return wrong;
}

static inline size_t dm_area_wrong(const struct dm_area *area, size_t b,
				   size_t nr)
{
	size_t wrong = 0;

	for (; nr; nr--)
		wrong += dm_block_wrong(area, b++);
	return wrong;
}

/*
 * The result of DEVMEM_OP_CHECKSUM for @nr blocks. The sum over a block that begins
 * with word k of the range is
 *	sum (base + i) * (2 * (k + i) + 1)
 */
static inline __u64 dm_area_sum(const struct dm_area *area, size_t b, size_t nr)
{
	unsigned __int128 n = area->block / DM_WORD;
	__u64 sum_i = n * (n - 1) / 2;
	__u64 sum_ii = (n - 1) * n * (2 * n - 1) / 6;
	__u64 k = 0, sum = 0;

	for (; nr; nr--, b++, k += n) {
		__u64 base = area->base[b];

		sum += base * (__u64)n * (2 * k + 1) + 2 * base * sum_i +
		       sum_i * (2 * k + 1) + 2 * sum_ii;
	}
	return sum;
}

/* --- settings --- */

static inline bool dm_file_put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Files of the kernel that a test has changed, and their contents before. */
static struct {
	char path[128], was[128];
} dm_changed[16];

/* Write to a file of the kernel; dm_files_restore() undoes it. */
static inline bool dm_file_change(const char *path, const char *text)
{
	unsigned int i;
	ssize_t len;
	int fd;

	for (i = 0; i < ARRAY_SIZE(dm_changed) && *dm_changed[i].path; i++)
		if (!strcmp(dm_changed[i].path, path))
			return dm_file_put(path, text);
	if (i == ARRAY_SIZE(dm_changed))
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	len = read(fd, dm_changed[i].was, sizeof(dm_changed[i].was) - 1);
	close(fd);
	if (len <= 0)
		return false;
	snprintf(dm_changed[i].path, sizeof(dm_changed[i].path), "%s", path);
	return dm_file_put(path, text);
}

static inline void dm_files_restore(void)
{
	unsigned int i;

	for (i = ARRAY_SIZE(dm_changed); i--; )
		if (*dm_changed[i].path)
			dm_file_put(dm_changed[i].path, dm_changed[i].was);
}

/* The number behind @key, or at the start of the file; -1 if there is none. */
static inline long dm_file_get(const char *path, const char *key)
{
	char text[4096] = "", *at = text;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		at = NULL;
	if (fd >= 0)
		close(fd);
	if (at && key)
		at = strstr(at, key);
	return at ? atol(at + (key ? strlen(key) : 0)) : -1;
}

/* Is memory coherent? @param: coherent_ram for simulated devices, coherent_cards for cards. */
static inline bool dm_coherent(const char *param)
{
	char path[128], c = 0;
	int fd;

	snprintf(path, sizeof(path), "/sys/module/drm_devmem/parameters/%s", param);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	if (read(fd, &c, 1) != 1)
		c = 0;
	close(fd);
	/* As in "N", or "(null)". */
	return c && c != 'N' && c != '(';
}

/* A process hangs: print the kernel stacks of all tasks. */
static inline void dm_say_stacks(void)
{
	if (system("grep -H . /proc/[0-9]*/task/*/stack"))
		printf("# the stacks cannot be read\n");
}

#define DM_SWAP		"/dev/ram0"

static bool dm_swaps;

/* Make the beginning of a RAM disk swap. */
static inline int dm_swap_on(size_t size)
{
	/* The part of union swap_header that is in use. */
	struct {
		char bootbits[1024];
		__u32 version, last_page, nr_badpages;
		unsigned char pad[DM_PAGE - 1024 - 12 - 10];
		char magic[10];
	} head = {
		.version = 1,
		.last_page = size / DM_PAGE - 1,
		.magic = "SWAPSPACE2",
	};
	char was[DM_PAGE], none[DM_PAGE] = {};
	/* With O_EXCL this fails if the disk is in use. */
	int fd = open(DM_SWAP, O_RDWR | O_EXCL);
	bool ok;

	if (fd < 0)
		return -errno;
	if (read(fd, was, DM_PAGE) == DM_PAGE && memcmp(was, none, DM_PAGE) &&
	    memcmp(was + DM_PAGE - 10, head.magic, 10)) {
		close(fd);
		return -EBUSY;	/* the disk holds other data */
	}
	ok = pwrite(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head) && !fsync(fd);
	close(fd);
	if (!ok)
		return -EIO;
	if (swapon(DM_SWAP, 0))
		return -errno;
	dm_swaps = true;
	return 0;
}

/* Undo dm_swap_on(), if it is on. */
static inline int dm_swap_off(void)
{
	if (dm_swaps && swapoff(DM_SWAP))
		return -errno;
	dm_swaps = false;
	return 0;
}

#endif /* _DEVMEM_UTIL_H_ */
