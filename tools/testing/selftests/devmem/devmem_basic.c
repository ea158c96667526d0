// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the requests: wrong arguments, callers without permission, and as many devices as
 * there can be.
 *
 * devmem_basic_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_basic_all runs.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include "devmem_world.h"

/* --- wrong requests --- */

FIXTURE(hostile)
{
	struct world w;
	/* The first half of it is on device 0. */
	struct dm_area area;
	/* Addresses that cannot be used, or not for writing. */
	void *hole, *read_only, *no_access;
	int fd;
};

FIXTURE_SETUP(hostile)
{
	struct world *w = &self->w;
	unsigned char *mem;

	world_init(_metadata, w, 2, 0);
	self->fd = w->dev[0].fd;
	area_init(_metadata, &self->area, 4 * BLOCK, BLOCK, false);
	area_write(w, &self->area, 0, self->area.nr);
	area_put(_metadata, &self->area, 0, 2, &w->dev[0]);

	mem = mmap(NULL, 3 * BLOCK, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	memset(mem, 1, 3 * BLOCK);
	self->hole = mem;
	self->read_only = mem + BLOCK;
	self->no_access = mem + 2 * BLOCK;
	ASSERT_EQ(0, munmap(self->hole, BLOCK));
	ASSERT_EQ(0, mprotect(self->read_only, BLOCK, PROT_READ));
	ASSERT_EQ(0, mprotect(self->no_access, BLOCK, PROT_NONE));
}

/* No wrong request has changed anything. */
FIXTURE_TEARDOWN(hostile)
{
	struct world *w = &self->w;
	struct devmem_topology_entry topo[MAX_DEVS];
	struct dm_where where;

	if (w->ctl < 0)
		return;
	if (w->dev[0].fd >= 0) {
		topology(_metadata, w, topo);
		EXPECT_EQ(0, topo[0].links);
		ASSERT_EQ(0, dm_where(self->fd, self->area.mem, self->area.len,
				      &where));
		EXPECT_EQ(2 * BLOCK / DM_PAGE, where.device[w->dev[0].id]);
		EXPECT_EQ(2 * BLOCK / DM_PAGE, where.system);
		EXPECT_EQ(0, dm_area_wrong(&self->area, 0, self->area.nr));
	}
	world_fini(_metadata, w);
}

#define KERNEL_ADDR	(~0ULL << 20)
#define ADDR(p)		((__u64)(unsigned long)(p))

static unsigned int nr_devices(struct __test_metadata *_metadata, struct world *w)
{
	int nr = dm_topology(w->ctl, NULL, 0);

	ASSERT_GE(nr, 0);
	return nr;
}

static const struct {
	const char *what;
	struct devmem_create args;
} create_cases[] = {
	{ "no memory", { .mem_size = 0 } },
	{ "less than 16 MiB", { .mem_size = 14 * DM_MIB } },
	{ "not whole huge pages", { .mem_size = MEM_SIZE + DM_MIB } },
	{ "no page", { .mem_size = MEM_SIZE + 1 } },
	{ "more than 64 GiB", { .mem_size = (64ULL << 30) + DM_HUGE } },
	{ "far more", { .mem_size = 1ULL << 63 } },
	{ "as much as can be", { .mem_size = -DM_HUGE } },
	{ "large chunk", { .mem_size = MEM_SIZE, .chunk_size = MEM_SIZE + DM_HUGE } },
	{ "huge chunk", { .mem_size = MEM_SIZE, .chunk_size = -DM_HUGE } },
	{ "odd chunk", { .mem_size = MEM_SIZE, .chunk_size = DM_MIB } },
	{ "tiny chunk", { .mem_size = MEM_SIZE, .chunk_size = 1 } },
	{ "flag", { .mem_size = MEM_SIZE, .flags = 1 } },
	{ "high flag", { .mem_size = MEM_SIZE, .flags = 1U << 31 } },
};

TEST_F(hostile, create)
{
	struct devmem_create args;
	struct world *w = &self->w;
	unsigned int nr = nr_devices(_metadata, w), i;
	struct sysinfo info;

	for (i = 0; i < ARRAY_SIZE(create_cases); i++) {
		args = create_cases[i].args;
		EXPECT_EQ(-EINVAL, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, &args)) {
			TH_LOG("%s", create_cases[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, NULL));
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE,
				    (void *)KERNEL_ADDR));
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, self->hole));
	EXPECT_EQ(nr, nr_devices(_metadata, w));

	/* A good request whose result cannot be written makes no device. */
	args = (struct devmem_create) { .mem_size = MEM_SIZE };
	ASSERT_EQ(0, mprotect(self->read_only, BLOCK, PROT_READ | PROT_WRITE));
	memcpy(self->read_only, &args, sizeof(args));
	ASSERT_EQ(0, mprotect(self->read_only, BLOCK, PROT_READ));
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, self->read_only));
	EXPECT_EQ(nr, nr_devices(_metadata, w));

	/* More than the machine has. */
	ASSERT_EQ(0, sysinfo(&info));
	if ((__u64)info.totalram * info.mem_unit < 64ULL << 30) {
		args = (struct devmem_create) { .mem_size = 64ULL << 30 };
		EXPECT_EQ(-ENOMEM, dm_ioctl(w->ctl, DEVMEM_IOC_CREATE, &args));
		EXPECT_EQ(nr, nr_devices(_metadata, w));
	}
}

TEST_F(hostile, destroy)
{
	struct world *w = &self->w;
	const struct {
		const char *what;
		int want;
		struct devmem_destroy args;
	} cases[] = {
		{ "flag", -EINVAL, { .id = w->dev[0].id, .flags = 4 } },
		{ "high flag", -EINVAL, { .id = w->dev[0].id, .flags = 1U << 31 } },
		{ "pad", -EINVAL, { .id = w->dev[0].id, .pad = 1 } },
		{ "timeout", -EINVAL, { .id = w->dev[0].id, .timeout_ms = 60001 } },
		{ "long timeout", -EINVAL, { .id = w->dev[0].id, .timeout_ms = ~0U } },
		{ "last id", -ENOENT, { .id = DEVMEM_MAX_DEVICES - 1 } },
		{ "id", -ENOENT, { .id = DEVMEM_MAX_DEVICES } },
		{ "large id", -ENOENT, { .id = ~0U } },
		{ "id by force", -ENOENT, { .id = ~0U, .flags = DEVMEM_FORCE } },
		{ "id that is lost", -ENOENT, { .id = ~0U, .flags = DEVMEM_LOST } },
	};
	struct devmem_destroy args;
	unsigned int nr = nr_devices(_metadata, w), i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		EXPECT_EQ(cases[i].want,
			  dm_ioctl(w->ctl, DEVMEM_IOC_DESTROY, &args)) {
			TH_LOG("%s", cases[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_DESTROY, NULL));
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_DESTROY,
				    (void *)KERNEL_ADDR));
	EXPECT_EQ(nr, nr_devices(_metadata, w));
}

/* One entry is wrong. */
static void wrong_links(struct __test_metadata *_metadata, struct world *w,
			const struct devmem_link *good)
{
	const __u32 a = w->dev[0].id, b = w->dev[1].id;
	const struct {
		const char *what;
		int want;
		struct devmem_link link;
	} cases[] = {
		{ "itself", -EINVAL, { .a = a, .b = a, .up = 1 } },
		{ "itself, down", -EINVAL, { .a = b, .b = b } },
		{ "unknown itself", -EINVAL, { .a = ~0U, .b = ~0U } },
		{ "up", -EINVAL, { .a = a, .b = b, .up = 2 } },
		{ "far up", -EINVAL, { .a = a, .b = b, .up = ~0U } },
		{ "pad", -EINVAL, { .a = a, .b = b, .up = 1, .pad = 1 } },
		{ "last id", -ENOENT, { .a = a, .b = DEVMEM_MAX_DEVICES - 1 } },
		{ "id", -ENOENT, { .a = a, .b = DEVMEM_MAX_DEVICES, .up = 1 } },
		{ "large id", -ENOENT, { .a = ~0U, .b = b, .up = 1 } },
	};
	struct devmem_link links[2];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		/* Behind a good entry, too, which then has no effect. */
		links[0] = *good;
		links[1] = cases[i].link;
		EXPECT_EQ(cases[i].want, dm_links(w->ctl, &links[1], 1, 0, NULL)) {
			TH_LOG("%s", cases[i].what);
		}
		EXPECT_EQ(cases[i].want, dm_links(w->ctl, links, 2, 0, NULL)) {
			TH_LOG("%s, second", cases[i].what);
		}
		EXPECT_EQ(cases[i].want,
			  dm_links(w->ctl, links, 2, DEVMEM_FORCE, NULL)) {
			TH_LOG("%s, second, by force", cases[i].what);
		}
	}
}

TEST_F(hostile, link)
{
	struct world *w = &self->w;
	struct devmem_link good = { .a = w->dev[0].id, .b = w->dev[1].id, .up = 1 };
	const struct {
		const char *what;
		int want;
		struct devmem_set_links args;
	} calls[] = {
		{ "none", -EINVAL, { .links = ADDR(&good) } },
		{ "too many", -EINVAL, { .links = ADDR(&good),
					 .nr = DEVMEM_MAX_LINKS + 1 } },
		{ "far too many", -EINVAL, { .links = ADDR(&good), .nr = ~0U } },
		{ "flag", -EINVAL, { .links = ADDR(&good), .nr = 1, .flags = 2 } },
		{ "pad", -EINVAL, { .links = ADDR(&good), .nr = 1, .pad = 1 } },
		{ "timeout", -EINVAL, { .links = ADDR(&good), .nr = 1,
					.timeout_ms = 60001 } },
		{ "no pointer", -EFAULT, { .nr = 1 } },
		{ "hole", -EFAULT, { .links = ADDR(self->hole), .nr = 1 } },
		{ "runs into nothing", -EFAULT,
		  { .links = ADDR(self->no_access) - sizeof(good), .nr = 2 } },
		{ "kernel", -EFAULT, { .links = KERNEL_ADDR, .nr = 1 } },
		{ "end", -EFAULT, { .links = -sizeof(good), .nr = 1 } },
	};
	struct devmem_link links[2] = { good, good };
	struct devmem_set_links args;
	unsigned int i;

	wrong_links(_metadata, w, &good);
	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		args = calls[i].args;
		EXPECT_EQ(calls[i].want,
			  dm_ioctl(w->ctl, DEVMEM_IOC_LINK, &args)) {
			TH_LOG("%s", calls[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_LINK, NULL));

	/* Up and down again in one request changes nothing. */
	links[1].up = 0;
	EXPECT_EQ(0, dm_links(w->ctl, links, 2, 0, NULL));
}

TEST_F(hostile, topology_of_devices)
{
	struct devmem_topology_entry entries[DEVMEM_MAX_DEVICES];
	struct world *w = &self->w;
	const struct {
		const char *what;
		int want;
		struct devmem_topology args;
	} cases[] = {
		{ "flag", -EINVAL, { .entries = ADDR(entries), .nr = 1, .flags = 1 } },
		{ "no pointer", -EFAULT, { .nr = 1 } },
		{ "hole", -EFAULT, { .entries = ADDR(self->hole), .nr = 1 } },
		{ "read only", -EFAULT, { .entries = ADDR(self->read_only),
					  .nr = 1 } },
		{ "kernel", -EFAULT, { .entries = KERNEL_ADDR, .nr = ~0U } },
	};
	struct devmem_topology args;
	unsigned int i;
	int nr;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		EXPECT_EQ(cases[i].want,
			  dm_ioctl(w->ctl, DEVMEM_IOC_TOPOLOGY, &args)) {
			TH_LOG("%s", cases[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(w->ctl, DEVMEM_IOC_TOPOLOGY, NULL));

	/* The kernel writes no entry beyond the room, and returns the right number. */
	memset(entries, 0xee, sizeof(entries));
	nr = dm_topology(w->ctl, entries, 1);
	EXPECT_GE(nr, 2);
	EXPECT_EQ(0xeeeeeeee, entries[1].id);
	EXPECT_EQ(nr, dm_topology(w->ctl, NULL, 0));
	EXPECT_EQ(nr, dm_topology(w->ctl, entries, DEVMEM_MAX_DEVICES));
	EXPECT_EQ(0, dm_pages_left(w->ctl));
}

TEST_F(hostile, hold)
{
	const __u64 a = ADDR(dm_block(&self->area, 0));
	const struct {
		const char *what;
		int want;
		struct devmem_hold args;
	} cases[] = {
		{ "flag", -EINVAL, { a, 2, 1 } },
		{ "high flag", -EINVAL, { a, 1U << 31, 1 } },
		{ "no time", -EINVAL, { a, 0, 0 } },
		{ "too long", -EINVAL, { a, 0, 60001 } },
		{ "addr", -EINVAL, { a + 1, 0, 1 } },
		{ "wraps", -EINVAL, { -DM_PAGE, 0, 1 } },
		{ "kernel", -EFAULT, { KERNEL_ADDR, 0, 1 } },
		{ "hole", -ENOENT, { ADDR(self->hole), 0, 1 } },
		{ "system", -ENOENT, { ADDR(dm_block(&self->area, 2)), 0, 1 } },
		{ "good", 0, { a, 0, 1 } },
		{ "good and locked", 0, { a, DEVMEM_HOLD_LOCK, 1 } },
	};
	unsigned int i, dev;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		for (dev = 0; dev < 2; dev++) {
			struct devmem_hold args = cases[i].args;

			EXPECT_EQ(cases[i].want,
				  dm_ioctl(self->w.dev[dev].fd,
					   DRM_IOCTL_DEVMEM_HOLD, &args)) {
				TH_LOG("%s", cases[i].what);
			}
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_HOLD, NULL));
}

TEST_F(hostile, unknown_requests)
{
	char buf[256] = {};
	struct world *w = &self->w;

	EXPECT_EQ(-ENOTTY, dm_ioctl(w->ctl, _IO(0xDE, 0x7f), NULL));
	EXPECT_EQ(-ENOTTY, dm_ioctl(w->ctl, 0, buf));
	EXPECT_EQ(-ENOTTY, dm_ioctl(w->ctl, _IOWR(0xDE, 0x00, __u32), buf));
	EXPECT_EQ(-ENOTTY, dm_ioctl(w->ctl, DRM_IOCTL_DEVMEM_INFO, buf));
	EXPECT_EQ(-EINVAL, dm_ioctl(self->fd, DEVMEM_DRM_IOWR(6, buf), buf));
	EXPECT_EQ(-EINVAL, dm_ioctl(self->fd, DEVMEM_DRM_IOWR(0x5f, buf), buf));
}

/* --- wrong commands --- */

enum { FILL, COPY, SUM, ADD };
static_assert(FILL == DEVMEM_OP_FILL && COPY == DEVMEM_OP_COPY &&
	      SUM == DEVMEM_OP_CHECKSUM && ADD == DEVMEM_OP_ATOMIC_ADD, "names of ops");

struct exec_case {
	const char *what;
	struct devmem_exec args;
};

static void exec_cases(struct __test_metadata *_metadata, int fd,
		       const struct exec_case *cases, unsigned int nr, int want)
{
	struct devmem_exec args;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		args = cases[i].args;
		args.result = 42;
		args.done = 42;
		EXPECT_EQ(want, dm_exec(fd, &args)) {
			TH_LOG("%s", cases[i].what);
		}
		if (!want)
			args.done -= args.len;
		EXPECT_EQ(0, args.done);
	}
}

/* Commands that are wrong in themselves. */
static void exec_invalid(struct __test_metadata *_metadata, int fd, const void *from,
			 const void *to)
{
	const __u64 a = ADDR(from), b = ADDR(to);
	const struct exec_case cases[] = {
		{ "op", { .op = 4, .dst = a, .len = 8 } },
		{ "last op", { .op = ~0U, .dst = a, .len = 8 } },
		{ "flag", { FILL, 2, .dst = a, .len = 8 } },
		{ "count copy", { COPY, DEVMEM_EXEC_COUNT, b, a, 8 } },
		{ "count sum", { SUM, DEVMEM_EXEC_COUNT, .src = a, .len = 8 } },
		{ "count add", { ADD, DEVMEM_EXEC_COUNT, .dst = a, .len = 8 } },
		{ "fill from", { FILL, 0, a, b, 8 } },
		{ "add from", { ADD, 0, a, b, 8 } },
		{ "sum to", { SUM, 0, a, b, 8 } },
		{ "copy a value", { COPY, 0, b, a, 8, 1 } },
		{ "sum a value", { SUM, 0, 0, a, 8, 1 } },
		{ "nothing", { FILL, .dst = a } },
		{ "no copy", { COPY, 0, b, a, 0 } },
		{ "no sum", { SUM, 0, 0, a, 0 } },
		{ "odd dst", { FILL, .dst = a + 4, .len = 8 } },
		{ "odd src", { SUM, .src = a + 1, .len = 8 } },
		{ "odd copy", { COPY, 0, b, a + 4, 8 } },
		{ "odd len", { ADD, .dst = a, .len = 12 } },
		{ "wraps", { FILL, .dst = -8ULL, .len = 16 } },
		{ "wraps to 0", { FILL, .dst = -8ULL, .len = 8 } },
		{ "endless", { SUM, .src = a, .len = -8ULL } },
		{ "src wraps", { COPY, 0, b, -16ULL, 32 } },
		{ "itself", { COPY, 0, a, a, 8 } },
		{ "up", { COPY, 0, a + 8, a, 16 } },
		{ "down", { COPY, 0, a, a + BLOCK - 8, BLOCK } },
	};

	exec_cases(_metadata, fd, cases, ARRAY_SIZE(cases), -EINVAL);
}

/* Commands on memory that is not there, or that the process must not access. */
static void exec_faults(struct __test_metadata *_metadata, struct _test_data_hostile *self)
{
	const __u64 a = ADDR(dm_block(&self->area, 0)), b = ADDR(dm_block(&self->area, 2));
	const __u64 hole = ADDR(self->hole), read_only = ADDR(self->read_only);
	const __u64 no_access = ADDR(self->no_access);
	const struct exec_case cases[] = {
		{ "kernel dst", { FILL, .dst = KERNEL_ADDR, .len = 8 } },
		{ "kernel src", { SUM, .src = KERNEL_ADDR, .len = 8 } },
		{ "kernel copy", { COPY, 0, b, KERNEL_ADDR, 8 } },
		{ "into kernel", { SUM, .src = a, .len = 1ULL << 62 } },
		{ "half", { ADD, .dst = 1ULL << 63, .len = 8 } },
		{ "null", { FILL, .len = 8 } },
		{ "null src", { SUM, .len = 8 } },
		{ "hole", { FILL, .dst = hole, .len = 8 } },
		{ "hole src", { SUM, .src = hole, .len = 8 } },
		{ "read only", { FILL, .dst = read_only, .len = 8 } },
		{ "read only add", { ADD, .dst = read_only, .len = 8 } },
		{ "read only copy", { COPY, 0, read_only, a, 8 } },
		{ "no access", { SUM, .src = no_access, .len = 8 } },
		{ "no access dst", { FILL, .dst = no_access, .len = 8 } },
	};

	exec_cases(_metadata, self->fd, cases, ARRAY_SIZE(cases), -EFAULT);
}

TEST_F(hostile, exec)
{
	void *a = dm_block(&self->area, 0), *b = dm_block(&self->area, 2);
	const __u64 end = ADDR(self->area.mem) + self->area.len;
	const struct exec_case good[] = {
		{ "first word", { SUM, .src = ADDR(a), .len = 8 } },
		{ "last word", { SUM, .src = end - 8, .len = 8 } },
		{ "read only src", { SUM, .src = ADDR(self->read_only), .len = BLOCK } },
	};
	struct devmem_exec args;
	__u64 sum;

	exec_invalid(_metadata, self->fd, a, b);
	exec_faults(_metadata, self);
	exec_cases(_metadata, self->fd, good, ARRAY_SIZE(good), 0);
	EXPECT_EQ(-EFAULT, dm_exec(self->fd, NULL));
	EXPECT_EQ(-EFAULT, dm_exec(self->fd, (void *)KERNEL_ADDR));
	EXPECT_EQ(-EFAULT, dm_exec(self->fd, self->hole));

	/* Ranges that only touch do not overlap. */
	EXPECT_EQ(0, dm_copy(self->fd, (char *)a + 8, a, 8));
	EXPECT_EQ(0, dm_copy(self->fd, a, (char *)b - BLOCK, BLOCK));
	self->area.base[0] = self->area.base[1];

	/* A command gets as far as the process can access the memory. */
	args = (struct devmem_exec) {
		.op = DEVMEM_OP_COPY,
		.dst = ADDR(a),
		.src = ADDR(self->no_access) - 2 * DM_PAGE,
		.len = 3 * DM_PAGE,
	};
	EXPECT_EQ(-EFAULT, dm_exec(self->fd, &args));
	EXPECT_EQ(2 * DM_PAGE, args.done);
	EXPECT_EQ(0, dm_checksum(self->fd, a, 2 * DM_PAGE, &sum));
	EXPECT_EQ(0x0101010101010101ULL * (2 * DM_PAGE / DM_WORD) *
		  (2 * DM_PAGE / DM_WORD), sum);
	EXPECT_EQ(0, dm_fill(self->fd, a, BLOCK, self->area.base[0]));
}

/* Memory that is not anonymous stays where it is. */
static void migrate_file(struct __test_metadata *_metadata, int dev)
{
	unsigned char *file;
	int fd;

	fd = syscall(__NR_memfd_create, "devmem", 0);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ftruncate(fd, BLOCK));
	file = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, file);
	memset(file, 2, BLOCK);
	EXPECT_EQ(0, dm_migrate(dev, file, BLOCK, DEVMEM_MIGRATE_TO_DEVICE));
	EXPECT_EQ((long)(BLOCK / DM_PAGE),
		  dm_migrate(dev, file, BLOCK, DEVMEM_MIGRATE_TO_SYSTEM));
	EXPECT_EQ(0, dm_fill(dev, file, BLOCK, 7));
	EXPECT_EQ(7 + BLOCK / DM_WORD - 1, ((__u64 *)file)[BLOCK / DM_WORD - 1]);
	munmap(file, BLOCK);
	close(fd);
}

TEST_F(hostile, migrate)
{
	const __u32 to_dev = DEVMEM_MIGRATE_TO_DEVICE;
	const __u32 to_sys = DEVMEM_MIGRATE_TO_SYSTEM;
	const __u64 a = ADDR(dm_block(&self->area, 0));
	const struct {
		const char *what;
		int want;
		struct devmem_migrate args;
	} cases[] = {
		{ "nowhere", -EINVAL, { a, DM_PAGE, 0 } },
		{ "both", -EINVAL, { a, DM_PAGE, to_dev | to_sys } },
		{ "flag", -EINVAL, { a, DM_PAGE, to_dev | 4 } },
		{ "high flag", -EINVAL, { a, DM_PAGE, 1U << 31 } },
		{ "pad", -EINVAL, { a, DM_PAGE, to_dev, 1 } },
		{ "addr", -EINVAL, { a + 8, DM_PAGE, to_dev } },
		{ "len", -EINVAL, { a, DM_PAGE + 8, to_sys } },
		{ "nothing", -EINVAL, { a, 0, to_dev } },
		{ "nothing to system", -EINVAL, { a, 0, to_sys } },
		{ "wraps", -EINVAL, { -DM_PAGE, 2 * DM_PAGE, to_dev } },
		{ "wraps to 0", -EINVAL, { -DM_PAGE, DM_PAGE, to_sys } },
		{ "endless", -EINVAL, { a, -DM_PAGE, to_dev } },
		{ "kernel", -EFAULT, { KERNEL_ADDR, DM_PAGE, to_dev } },
		{ "kernel to system", -EFAULT, { KERNEL_ADDR, DM_PAGE, to_sys } },
		{ "into kernel", -EFAULT, { a, 1ULL << 62, to_dev } },
		{ "null", -EFAULT, { 0, DM_PAGE, to_dev } },
		{ "hole", -EFAULT, { ADDR(self->hole), DM_PAGE, to_dev } },
		{ "hole to system", -EFAULT, { ADDR(self->hole), DM_PAGE, to_sys } },
		{ "no access", -EFAULT, { ADDR(self->no_access), DM_PAGE, to_sys } },
	};
	struct devmem_migrate args;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		args.pages = 42;
		EXPECT_EQ(cases[i].want, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_MIGRATE,
						  &args)) {
			TH_LOG("%s", cases[i].what);
		}
		EXPECT_EQ(0, args.pages);
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_MIGRATE, NULL));
	migrate_file(_metadata, self->fd);
}

TEST_F(hostile, query)
{
	__u32 pages[4 * BLOCK / DM_PAGE];
	const __u64 a = ADDR(dm_block(&self->area, 0)), to = ADDR(pages);
	const struct {
		const char *what;
		int want;
		struct devmem_query args;
	} cases[] = {
		{ "flag", -EINVAL, { a, DM_PAGE, to, 1 } },
		{ "pad", -EINVAL, { a, DM_PAGE, to, 0, 1 } },
		{ "addr", -EINVAL, { a + 1, DM_PAGE, to } },
		{ "len", -EINVAL, { a, 1, to } },
		{ "nothing", -EINVAL, { a, 0, to } },
		{ "wraps", -EINVAL, { -DM_PAGE, 2 * DM_PAGE, to } },
		{ "wraps to 0", -EINVAL, { -DM_PAGE, DM_PAGE, to } },
		{ "kernel", -EFAULT, { KERNEL_ADDR, DM_PAGE, to } },
		{ "into kernel", -EFAULT, { a, 1ULL << 62, to } },
		{ "no pointer", -EFAULT, { a, DM_PAGE, 0 } },
		{ "read only", -EFAULT, { a, DM_PAGE, ADDR(self->read_only) } },
		{ "kernel pointer", -EFAULT, { a, DM_PAGE, KERNEL_ADDR } },
		{ "runs into nothing", -EFAULT,
		  { a, 2 * DM_PAGE, ADDR(self->no_access) - 4 } },
		{ "hole", 0, { ADDR(self->hole), DM_PAGE, to } },
		{ "null", 0, { 0, DM_PAGE, to } },
		{ "no access", 0, { ADDR(self->no_access), DM_PAGE, to } },
	};
	struct devmem_query args;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		args = cases[i].args;
		EXPECT_EQ(cases[i].want, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_QUERY,
						  &args)) {
			TH_LOG("%s", cases[i].what);
		}
	}
	EXPECT_EQ(-EFAULT, dm_ioctl(self->fd, DRM_IOCTL_DEVMEM_QUERY, NULL));

	/* Nothing is there, and the query does not change that. */
	memset(pages, 0xee, sizeof(pages));
	EXPECT_EQ(0, dm_query(self->fd, self->hole, DM_PAGE, pages));
	EXPECT_EQ(DEVMEM_PAGE_NONE, pages[0]);
	EXPECT_EQ(0xeeeeeeee, pages[1]);
	/* Any device answers for all. */
	EXPECT_EQ(0, dm_query(self->w.dev[1].fd, (void *)a, self->area.len, pages));
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		EXPECT_EQ(i < ARRAY_SIZE(pages) / 2 ?
			  DEVMEM_PAGE_DEVICE | self->w.dev[0].id << 8 :
			  DEVMEM_PAGE_SYSTEM, pages[i]);
}

TEST_F(hostile, info_and_stats)
{
	struct devmem_info info = { .flags = 1 };
	struct devmem_stats stats = { .flags = 1 };
	int fd = self->fd;

	EXPECT_EQ(-EINVAL, dm_ioctl(fd, DRM_IOCTL_DEVMEM_INFO, &info));
	EXPECT_EQ(-EINVAL, dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS, &stats));
	stats.flags = 0;
	stats.pad = 1;
	EXPECT_EQ(-EINVAL, dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS, &stats));
	EXPECT_EQ(-EFAULT, dm_ioctl(fd, DRM_IOCTL_DEVMEM_INFO, NULL));
	EXPECT_EQ(-EFAULT, dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS, NULL));
	EXPECT_EQ(-EFAULT, dm_ioctl(fd, DRM_IOCTL_DEVMEM_INFO, self->no_access));
	EXPECT_EQ(-EFAULT, dm_ioctl(fd, DRM_IOCTL_DEVMEM_STATS,
				    (void *)KERNEL_ADDR));

	EXPECT_EQ(0, dm_info(fd, &info));
	EXPECT_EQ(self->w.dev[0].id, info.id);
	EXPECT_EQ(MEM_SIZE, info.mem_size);
	EXPECT_EQ(MEM_SIZE, info.chunk_size);
	EXPECT_EQ(MEM_SIZE - 2 * BLOCK, info.mem_free);
	EXPECT_EQ(0, dm_stats(fd, &stats));
	EXPECT_EQ(2 * BLOCK / DM_PAGE, stats.migrated_in);
	EXPECT_EQ(2 * BLOCK, stats.bytes_copied);
	EXPECT_EQ(0, stats.migrated_out);
}

/* --- callers without permission --- */

/* An open file belongs to the process that first made a request EXEC or MIGRATE. */
TEST_F(hostile, file_of_another_process)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct child child;
	__u64 sum;
	int fd;

	fd = dm_open(w->dev[1].minor);
	ASSERT_GE(fd, 0);
	if (child_fork(_metadata, &child)) {
		struct devmem_stats stats;
		struct devmem_info info;
		struct dm_where where;

		CHILD_CHECK(dm_checksum(self->fd, area->mem, BLOCK, &sum) ==
			    -EINVAL);
		CHILD_CHECK(dm_migrate(self->fd, area->mem, BLOCK,
				       DEVMEM_MIGRATE_TO_SYSTEM) == -EINVAL);
		CHILD_CHECK(dm_migrate(self->fd, area->mem, BLOCK,
				       DEVMEM_MIGRATE_TO_DEVICE) == -EINVAL);
		CHILD_CHECK(!dm_info(self->fd, &info));
		CHILD_CHECK(!dm_stats(self->fd, &stats));
		CHILD_CHECK(!dm_where(self->fd, area->mem, area->len, &where));
		CHILD_CHECK(where.device[w->dev[0].id] == 2 * BLOCK / DM_PAGE);
		/* No process owns this file yet. */
		CHILD_CHECK(!dm_checksum(fd, dm_block(area, 2), BLOCK, &sum));
		CHILD_CHECK(sum == dm_area_sum(area, 2, 1));
		child_step(&child);
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));
	EXPECT_EQ(-EINVAL, dm_checksum(fd, area->mem, BLOCK, &sum));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	/* The same after that process has exited. */
	EXPECT_EQ(-EINVAL, dm_checksum(fd, area->mem, BLOCK, &sum));
	close(fd);
	EXPECT_TRUE(area_seen(area, 0, 1, self->fd));
}

TEST_F(hostile, control_takes_cap_sys_admin)
{
	struct child child;

	if (child_fork(_metadata, &child)) {
		struct __user_cap_header_struct header = {
			.version = _LINUX_CAPABILITY_VERSION_3,
		};
		struct __user_cap_data_struct data[2];

		CHILD_CHECK(!syscall(__NR_capget, &header, data));
		data[0].effective &= ~(1U << CAP_SYS_ADMIN);
		CHILD_CHECK(!syscall(__NR_capset, &header, data));
		CHILD_CHECK(open(DEVMEM_CTL_PATH, O_RDWR) < 0 && errno == EPERM);
		_exit(0);
	}
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
}

/* --- as many devices as there can be --- */

FIXTURE(full)
{
	struct world w;
	struct dm_dev dev[DEVMEM_MAX_DEVICES];
	unsigned int nr;
};

FIXTURE_SETUP(full)
{
	unsigned int i;

	ctl_open(_metadata, &self->w);
	for (i = nr_devices(_metadata, &self->w); i < DEVMEM_MAX_DEVICES; i++) {
		ASSERT_EQ(0, dm_create(self->w.ctl, MEM_SIZE, 0,
				       &self->dev[self->nr]));
		*live |= 1ULL << self->dev[self->nr++].id;
	}
}

FIXTURE_TEARDOWN(full)
{
	unsigned int i;

	for (i = 0; i < self->nr; i++) {
		no_violations(_metadata, &self->w, &self->dev[i]);
		EXPECT_EQ(0, dm_destroy(self->w.ctl, self->dev[i].id, 0, NULL));
		*live &= ~(1ULL << self->dev[i].id);
		close(self->dev[i].fd);
	}
}

/* All links of these devices come up in one request. */
static void full_link(struct __test_metadata *_metadata, struct _test_data_full *self)
{
	static struct devmem_link links[DEVMEM_MAX_LINKS];
	struct devmem_op_stats stats;
	unsigned int i, j, nr = 0;

	for (i = 0; i < self->nr; i++) {
		for (j = i + 1; j < self->nr; j++, nr++) {
			links[nr].a = self->dev[i].id;
			links[nr].b = self->dev[j].id;
			links[nr].up = 1;
		}
	}
	ASSERT_EQ(0, dm_links(self->w.ctl, links, nr, 0, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(self->nr - 1, stats.peers_moved);
	EXPECT_GE(rehomes(self->nr - 1), stats.pages_rehomed);
}

/* No device can be added, and all devices form one cluster. */
TEST_F(full, one_cluster_of_all)
{
	struct devmem_topology_entry entries[DEVMEM_MAX_DEVICES];
	struct world *w = &self->w;
	struct dm_where where;
	struct dm_area area;
	struct dm_dev more;
	unsigned int i;

	EXPECT_EQ(-ENOSPC, dm_create(w->ctl, MEM_SIZE, 0, &more));

	area_init(_metadata, &area, self->nr * DM_PAGE, DM_PAGE, false);
	area_write(w, &area, 0, area.nr);
	for (i = 0; i < self->nr; i++)
		area_put(_metadata, &area, i, 1, &self->dev[i]);
	full_link(_metadata, self);

	ASSERT_EQ(DEVMEM_MAX_DEVICES,
		  dm_topology(w->ctl, entries, DEVMEM_MAX_DEVICES));
	for (i = 0; i < self->nr; i++) {
		/* The first and the last device read all pages, the others read two. */
		bool whole = DM_ALL || !i || i == self->nr - 1;

		EXPECT_EQ(entries[self->dev[0].id].owner_id,
			  entries[self->dev[i].id].owner_id);
		EXPECT_TRUE(area_seen(&area, whole ? 0 : i, whole ? area.nr : 2,
				      self->dev[i].fd));
	}
	all_rehomed(_metadata, w);
	ASSERT_EQ(0, dm_where(self->dev[0].fd, area.mem, area.len, &where));
	for (i = 0; i < self->nr; i++)
		EXPECT_EQ(1, where.device[self->dev[i].id]);
	EXPECT_EQ(0, dm_area_wrong(&area, 0, area.nr));
	dm_area_fini(&area);
}

/* Only devmem_basic_all runs these: the kind of memory makes no difference here. */
static const struct dm_left left_to_all[] = {
	{ "hostile.*", coherent },
	{ "full.*", coherent },
	{ }
};

int main(int argc, char **argv)
{
	return world_main(argc, argv, left_to_all);
}
