// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a device reads and writes counts for the rest of mm as if a CPU had done
 * it: for reclaim, for soft-dirty bits, for userfaultfd and PAGEMAP_SCAN. The
 * device is that of lib/test_hmm. A device also has no access to memory that
 * get_user_pages() refuses.
 *
 * Two tests need a swap device that keeps what is read back (a disk, not zram),
 * and skip without one.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>

#include <lib/test_hmm_uapi.h>
#include <mm/vm_util.h>

#define TAINT_WARN	512UL
#define TAINTED		"/proc/sys/kernel/tainted"
#define CGROUPS		"/sys/fs/cgroup/"
#define GROUP		CGROUPS "hmm_access"
#define THP		"/sys/kernel/mm/transparent_hugepage"

FIXTURE(hmm_access) {
	int unit;
	int dev;
	int pagemap;
	size_t page;
	size_t size;		/* of a huge page */
	unsigned long nr;	/* pages in it */
	char *map;
	char *mem;		/* that size, aligned, inside of the map */
	char *mirror;
};

FIXTURE_VARIANT(hmm_access) {
	int unit;
	bool huge;
};

FIXTURE_VARIANT_ADD(hmm_access, private_small) { .unit = 0, };
FIXTURE_VARIANT_ADD(hmm_access, private_huge) { .unit = 0, .huge = true, };
FIXTURE_VARIANT_ADD(hmm_access, coherent_small) { .unit = 2, };

static int open_unit(int unit)
{
	char name[32];

	snprintf(name, sizeof(name), "/dev/hmm_dmirror%d", unit);
	return open(name, O_RDWR | O_CLOEXEC);
}

static bool put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static long number(const char *file)
{
	long value = -1;
	FILE *f = fopen(file, "r");

	if (f && fscanf(f, "%ld", &value) != 1)
		value = -1;
	if (f)
		fclose(f);
	return value;
}

static bool has_word(const char *file, const char *word)
{
	char text[256];
	bool found = false;
	FILE *f = fopen(file, "r");

	while (f && fscanf(f, "%255s", text) == 1)
		found |= !strcmp(text, word);
	if (f)
		fclose(f);
	return found;
}

/* An aligned huge page's worth of memory that has not been touched. */
static char *new_memory(size_t size, int flags, char **map)
{
	*map = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	if (*map == MAP_FAILED)
		return NULL;
	return (char *)(((uintptr_t)*map + size - 1) & ~(size - 1));
}

FIXTURE_SETUP(hmm_access)
{
	self->dev = open_unit(variant->unit);
	if (self->dev < 0 && variant->unit == 2)
		SKIP(return, "test_hmm has no coherent memory");
	ASSERT_GE(self->dev, 0);
	self->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(self->pagemap, 0);

	self->page = getpagesize();
	self->size = read_pmd_pagesize();
	if (!self->size && variant->huge)
		SKIP(return, "the kernel has no huge pages");
	self->size = self->size ?: 512 * self->page;
	self->nr = self->size / self->page;
	self->mirror = malloc(self->size);
	ASSERT_NE(self->mirror, NULL);
	self->mem = new_memory(self->size, MAP_PRIVATE, &self->map);
	ASSERT_NE(self->mem, NULL);
	/* Without huge pages both fail, and small ones are what there is. */
	madvise(self->mem, self->size, variant->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (!variant->huge)
		return;
	self->mem[0] = 1;
	if (!check_huge_anon(self->mem, self->size, 1, self->size))
		SKIP(return, "no huge page: are they enabled, is there memory?");
	ASSERT_EQ(madvise(self->mem, self->size, MADV_DONTNEED), 0);
}

FIXTURE_TEARDOWN(hmm_access)
{
	munmap(self->map, 2 * self->size);
	free(self->mirror);
	close(self->pagemap);
	close(self->dev);
}

/* Returns -errno, or how many pages it was done to. */
static long device(struct _test_data_hmm_access *self, unsigned long cmd, char *mem)
{
	struct hmm_dmirror_cmd arg = {
		.addr = (uintptr_t)mem,
		.ptr = (uintptr_t)self->mirror,
		.npages = self->nr,
	};

	while (ioctl(self->dev, cmd, &arg))
		if (errno != EINTR)
			return -errno;
	return arg.cpages;
}

static bool device_writes(struct _test_data_hmm_access *self, char *mem, char value)
{
	memset(self->mirror, value, self->size);
	return device(self, HMM_DMIRROR_WRITE, mem) == (long)self->nr;
}

/* Pages that are busy for the moment are tried again. */
static bool to_device(struct _test_data_hmm_access *self)
{
	bool all = false;

	for (int i = 0; i < 20 && !all; i++)
		all = device(self, HMM_DMIRROR_MIGRATE_TO_DEV, self->mem) == (long)self->nr;
	return all;
}

static void read_all(struct _test_data_hmm_access *self, char *mem)
{
	for (unsigned long i = 0; i < self->nr; i++)
		FORCE_READ(mem[i * self->page]);
}

/* How many pages do not begin with @value. */
static unsigned long wrong(struct _test_data_hmm_access *self, char *mem, char value)
{
	unsigned long i, n = 0;

	for (i = 0; i < self->nr; i++)
		n += mem[i * self->page] != value;
	return n;
}

static unsigned long with_bit(struct _test_data_hmm_access *self, char *mem, uint64_t bit)
{
	unsigned long i, n = 0;

	for (i = 0; i < self->nr; i++)
		n += !!(pagemap_get_entry(self->pagemap, mem + i * self->page) & bit);
	return n;
}

/* Pages that are busy for the moment are tried again; those that stay, stay. */
static void reclaim(struct _test_data_hmm_access *self, char *mem)
{
	for (int i = 0; i < 20 && with_bit(self, mem, PM_PRESENT); i++)
		madvise(mem, self->size, MADV_PAGEOUT);
}

/* Disks alone: the kernel may prefer others. */
static bool disk_swap(void)
{
	char line[256];
	int disks = 0, others = 0;
	FILE *f = fopen("/proc/swaps", "r");

	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "/dev/", 5) && !strstr(line, "ram"))
			disks++;
		else if (line[0] == '/')
			others++;
	}
	if (f)
		fclose(f);
	return disks && !others;
}

/* Does reclaim drop what MADV_FREE gave up? If not, what it keeps says nothing. */
static bool reclaim_works(struct __test_metadata *_metadata, struct _test_data_hmm_access *self)
{
	char *map, *mem = new_memory(self->size, MAP_PRIVATE, &map);
	bool works;

	ASSERT_NE(mem, NULL);
	memset(mem, 1, self->size);
	ASSERT_EQ(madvise(mem, self->size, MADV_FREE), 0);
	reclaim(self, mem);
	works = with_bit(self, mem, PM_PRESENT) == 0;
	munmap(map, 2 * self->size);
	return works;
}

TEST_F(hmm_access, write_after_madv_free)
{
	ASSERT_TRUE(reclaim_works(_metadata, self));
	memset(self->mem, 1, self->size);
	ASSERT_EQ(madvise(self->mem, self->size, MADV_FREE), 0);
	ASSERT_TRUE(device_writes(self, self->mem, 7));
	reclaim(self, self->mem);
	EXPECT_EQ(wrong(self, self->mem, 7), 0);
}

TEST_F(hmm_access, write_on_device_after_madv_free)
{
	ASSERT_TRUE(reclaim_works(_metadata, self));
	memset(self->mem, 1, self->size);
	ASSERT_EQ(madvise(self->mem, self->size, MADV_FREE), 0);
	ASSERT_TRUE(to_device(self));
	ASSERT_TRUE(device_writes(self, self->mem, 7));
	ASSERT_GE(device(self, HMM_DMIRROR_MIGRATE_TO_SYS, self->mem), 0);
	reclaim(self, self->mem);
	EXPECT_EQ(wrong(self, self->mem, 7), 0);
}

TEST_F(hmm_access, write_after_swap_in)
{
	if (!disk_swap())
		SKIP(return, "no swap on a disk");

	memset(self->mem, 1, self->size);
	reclaim(self, self->mem);
	ASSERT_GT(with_bit(self, self->mem, PM_SWAP), 0);
	read_all(self, self->mem);
	ASSERT_TRUE(device_writes(self, self->mem, 7));
	reclaim(self, self->mem);
	ASSERT_LT(with_bit(self, self->mem, PM_PRESENT), self->nr);
	EXPECT_EQ(wrong(self, self->mem, 7), 0);
}

TEST_F(hmm_access, write_to_shared_memory)
{
	char *map, *mem = new_memory(self->size, MAP_SHARED, &map);

	if (!disk_swap())
		SKIP(return, "no swap on a disk");

	ASSERT_NE(mem, NULL);
	if (variant->huge)
		ASSERT_EQ(madvise(mem, self->size, MADV_HUGEPAGE), 0);
	read_all(self, mem);
	ASSERT_TRUE(device_writes(self, mem, 7));
	reclaim(self, mem);
	ASSERT_LT(with_bit(self, mem, PM_PRESENT), self->nr);
	EXPECT_EQ(wrong(self, mem, 7), 0);
	munmap(map, 2 * self->size);
}

TEST_F(hmm_access, soft_dirty_on_device)
{
	memset(self->mem, 1, self->size);
	if (!with_bit(self, self->mem, PM_SOFT_DIRTY))
		SKIP(return, "the kernel has no soft-dirty bits");

	ASSERT_TRUE(to_device(self));
	ASSERT_TRUE(put("/proc/self/clear_refs", "4"));
	EXPECT_EQ(with_bit(self, self->mem, PM_SOFT_DIRTY), 0);
	ASSERT_TRUE(device_writes(self, self->mem, 7));
	EXPECT_EQ(with_bit(self, self->mem, PM_SOFT_DIRTY), self->nr);
	EXPECT_EQ(wrong(self, self->mem, 7), 0);
}

TEST_F(hmm_access, soft_dirty_when_born_on_device)
{
	memset(self->mem, 1, self->page);
	if (!with_bit(self, self->mem, PM_SOFT_DIRTY))
		SKIP(return, "the kernel has no soft-dirty bits");
	ASSERT_EQ(madvise(self->mem, self->size, MADV_DONTNEED), 0);

	ASSERT_TRUE(put("/proc/self/clear_refs", "4"));
	ASSERT_TRUE(to_device(self));
	ASSERT_TRUE(device_writes(self, self->mem, 7));
	EXPECT_EQ(with_bit(self, self->mem, PM_SOFT_DIRTY), self->nr);
}

static int track(struct _test_data_hmm_access *self, uint64_t features, uint64_t mode,
		 size_t len)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register reg = {
		.range = { (uintptr_t)self->mem, len },
		.mode = mode,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* How many pages are of the category. Those of PAGE_IS_WRITTEN can be protected. */
static long scan(struct _test_data_hmm_access *self, uint64_t category, bool protect)
{
	struct page_region *vec = calloc(self->nr, sizeof(*vec));
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = protect ? PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC : 0,
		.start = (uintptr_t)self->mem,
		.end = (uintptr_t)self->mem + self->size,
		.vec = (uintptr_t)vec,
		.vec_len = self->nr,
		.category_mask = category,
		.return_mask = category,
	};
	long i, n = ioctl(self->pagemap, PAGEMAP_SCAN, &arg), pages = 0;

	for (i = 0; i < n; i++)
		pages += (vec[i].end - vec[i].start) / self->page;
	free(vec);
	return n < 0 ? -errno : pages;
}

TEST_F(hmm_access, scan_of_device_memory)
{
	int fd = track(self, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
		       UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFDIO_REGISTER_MODE_WP, self->size);

	if (fd < 0)
		SKIP(return, "userfaultfd can't write-protect");

	memset(self->mem, 1, self->size);
	ASSERT_TRUE(to_device(self));
	ASSERT_EQ(scan(self, PAGE_IS_WRITTEN, true), (long)self->nr);
	EXPECT_EQ(scan(self, PAGE_IS_WRITTEN, false), 0);
	ASSERT_TRUE(device_writes(self, self->mem, 7));
	EXPECT_EQ(scan(self, PAGE_IS_WRITTEN, false), (long)self->nr);
	EXPECT_EQ(wrong(self, self->mem, 7), 0);
	close(fd);
}

TEST_F(hmm_access, tracked_access_to_device_memory)
{
	struct uffdio_rwprotect prot = {
		.range = { (uintptr_t)self->mem, self->size },
		.mode = UFFDIO_RWPROTECT_MODE_RWP,
	};
	int fd = track(self, UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC,
		       UFFDIO_REGISTER_MODE_RWP, self->size);

	if (fd < 0)
		SKIP(return, "userfaultfd can't track accesses");

	memset(self->mem, 1, self->size);
	ASSERT_TRUE(to_device(self));
	ASSERT_EQ(ioctl(fd, UFFDIO_RWPROTECT, &prot), 0);
	EXPECT_EQ(scan(self, PAGE_IS_ACCESSED, false), 0);
	ASSERT_EQ(device(self, HMM_DMIRROR_READ, self->mem), (long)self->nr);
	EXPECT_EQ(scan(self, PAGE_IS_ACCESSED, false), (long)self->nr);
	EXPECT_EQ(self->mirror[self->size - 1], 1);
	close(fd);
}

struct writer {
	char *at;
	atomic_bool done;
};

static void *writes(void *arg)
{
	struct writer *writer = arg;

	*writer->at = 7;
	writer->done = true;
	return NULL;
}

TEST_F(hmm_access, protected_zero_page)
{
	struct uffdio_writeprotect prot = {
		.range = { (uintptr_t)self->mem, self->size },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct writer writer = { .at = self->mem + self->page };
	struct pollfd event = { .events = POLLIN };
	pthread_t thread;
	int n;

	event.fd = track(self, UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFDIO_REGISTER_MODE_WP,
			 self->size);
	if (event.fd < 0)
		SKIP(return, "userfaultfd can't write-protect");

	read_all(self, self->mem);
	ASSERT_EQ(ioctl(event.fd, UFFDIO_WRITEPROTECT, &prot), 0);
	/* It may decline, which is no success for test_hmm. */
	device(self, HMM_DMIRROR_MIGRATE_TO_DEV, self->mem);

	ASSERT_EQ(pthread_create(&thread, NULL, writes, &writer), 0);
	do
		n = poll(&event, 1, 100);
	while (!n && !writer.done);
	EXPECT_EQ(n, 1);
	EXPECT_FALSE(writer.done);

	prot.mode = 0;
	ASSERT_EQ(ioctl(event.fd, UFFDIO_WRITEPROTECT, &prot), 0);
	pthread_join(thread, NULL);
	EXPECT_EQ(self->mem[self->page], 7);
	close(event.fd);
}

TEST_F(hmm_access, secret_memory)
{
	int fd = syscall(SYS_memfd_secret, O_CLOEXEC);
	char *mem;

	if (fd < 0)
		SKIP(return, "no memfd_secret()");
	ASSERT_EQ(ftruncate(fd, self->size), 0);
	mem = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(mem, MAP_FAILED);
	memset(mem, 1, self->size);

	EXPECT_EQ(device(self, HMM_DMIRROR_READ, mem), -EFAULT);
	EXPECT_EQ(device(self, HMM_DMIRROR_WRITE, mem), -EFAULT);
	EXPECT_EQ(device(self, HMM_DMIRROR_MIGRATE_TO_DEV, mem), -EINVAL);
	EXPECT_EQ(wrong(self, mem, 1), 0);
	munmap(mem, self->size);
	close(fd);
}

/* Only a kernel with CONFIG_DEBUG_VM checks the lists that this is about. */
TEST_F_TIMEOUT(hmm_access, born_in_a_new_cgroup, 300)
{
	bool controls = has_word(CGROUPS "cgroup.subtree_control", "memory");

	if (!variant->huge)
		SKIP(return, "for huge pages");
	if (number(TAINTED) & TAINT_WARN)
		SKIP(return, "the kernel has warned before");
	rmdir(GROUP);
	put(CGROUPS "cgroup.subtree_control", "+memory");
	if (mkdir(GROUP, 0755) || !put(GROUP "/cgroup.procs", "0")) {
		rmdir(GROUP);
		SKIP(return, "no cgroup with a memory controller");
	}

	EXPECT_TRUE(to_device(self));
	read_all(self, self->mem);
	/* This part is free only when the folio is split. */
	EXPECT_EQ(madvise(self->mem + self->page, self->page, MADV_DONTNEED), 0);
	munmap(self->mem, self->size);

	EXPECT_TRUE(put(CGROUPS "cgroup.procs", "0"));
	EXPECT_EQ(rmdir(GROUP), 0);
	if (!controls)
		put(CGROUPS "cgroup.subtree_control", "-memory");
	EXPECT_EQ(number(TAINTED) & TAINT_WARN, 0);
}

TEST_F(hmm_access, unmapped_in_part_on_device)
{
	char stat[128];
	long before;

	if (!variant->huge)
		SKIP(return, "for huge pages");
	snprintf(stat, sizeof(stat), THP "/hugepages-%zukB/stats/nr_anon_partially_mapped",
		 self->size / 1024);

	memset(self->mem, 1, self->size);
	ASSERT_TRUE(to_device(self));
	ASSERT_EQ(madvise(self->mem, self->size / 2, MADV_DONTNEED), 0);
	before = number(stat);
	ASSERT_GE(before, 0);
	ASSERT_GE(device(self, HMM_DMIRROR_RELEASE, self->mem), 0);
	ASSERT_EQ(with_bit(self, self->mem, PM_PRESENT), self->nr / 2);
	EXPECT_GT(number(stat), before);
}

TEST_F(hmm_access, snapshot_of_another_device)
{
	int own = self->dev, other = open_unit(variant->unit + 1);
	unsigned long i, n = 0;

	ASSERT_GE(other, 0);
	memset(self->mem, 1, self->size);
	ASSERT_TRUE(to_device(self));

	self->dev = other;
	ASSERT_GE(device(self, HMM_DMIRROR_SNAPSHOT, self->mem), 0);
	for (i = 0; i < self->nr; i++)
		n += (unsigned char)self->mirror[i] == HMM_DMIRROR_PROT_ERROR;
	EXPECT_EQ(n, 0);
	self->dev = own;
	close(other);
}

/* --- core dumps --- */

#define CORE		"/tmp/hmm-access.core."
#define CORE_PATTERN	"/proc/sys/kernel/core_pattern"

/* Have a child dump its core; size tells how much of the file is no hole. */
static bool core_of(void (*child)(void *), void *arg, char *core, off_t *size)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	char was[128] = "";
	struct stat st;
	int status = 0;
	pid_t pid;
	int fd;

	fd = open(CORE_PATTERN, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, was, sizeof(was) - 1) <= 0 || !put(CORE_PATTERN, CORE "%p"))
		return false;
	close(fd);
	pid = fork();
	if (!pid) {
		setrlimit(RLIMIT_CORE, &limit);
		/* Anonymous memory, and private pages of hugetlb. */
		put("/proc/self/coredump_filter", "0x21");
		child(arg);
		abort();
	}
	waitpid(pid, &status, 0);
	put(CORE_PATTERN, was);
	sprintf(core, CORE "%d", pid);
	if (pid < 0 || !WIFSIGNALED(status) || !WCOREDUMP(status) || stat(core, &st))
		return false;
	*size = st.st_blocks * 512;
	return true;
}

static void dies_on_device(void *arg)
{
	struct _test_data_hmm_access *self = arg;

	/* The device is that of the process that has opened it. */
	self->dev = open_unit(self->unit);
	memset(self->mem, 0x5a, self->size);
	if (!to_device(self))
		_exit(1);
	/* The copy that test_hmm has put there would be found as well. */
	memset(self->mirror, 0, self->size);
}

TEST_F_TIMEOUT(hmm_access, core_dump, 300)
{
	unsigned char page[self->page], want[self->page];
	unsigned long n = 0;
	char name[64];
	off_t size;
	FILE *core;

	self->unit = variant->unit;
	ASSERT_TRUE(core_of(dies_on_device, self, name, &size));
	core = fopen(name, "r");
	ASSERT_NE(core, NULL);
	memset(want, 0x5a, self->page);
	/* Memory begins at a multiple of the page size in the file. */
	while (fread(page, self->page, 1, core) == 1)
		n += !memcmp(page, want, self->page);
	EXPECT_EQ(n, self->nr);
	fclose(core);
	unlink(name);
}

static void dies_with_markers(void *arg)
{
	struct _test_data_hmm_access *self = arg;
	struct uffdio_writeprotect prot = {
		.range = { .len = 4 * self->size },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int fd;

	self->mem = mmap(NULL, 4 * self->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
	if (self->mem == MAP_FAILED)
		_exit(1);
	fd = track(self, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
		   UFFDIO_REGISTER_MODE_WP, 4 * self->size);
	prot.range.start = (uintptr_t)self->mem;
	if (fd < 0 || ioctl(fd, UFFDIO_WRITEPROTECT, &prot))
		_exit(1);
}

/* Nothing is on a device here: markers are what looks like it at this level. */
TEST_F_TIMEOUT(hmm_access, core_dump_of_markers, 300)
{
	char file[96], was[32], name[64] = "";
	char *map = self->mem;
	off_t size = 0;
	bool dumped;

	if (variant->huge || variant->unit)
		SKIP(return, "the same for all devices");
	snprintf(file, sizeof(file), "/sys/kernel/mm/hugepages/hugepages-%zukB/nr_hugepages",
		 self->size / 1024);
	snprintf(was, sizeof(was), "%ld", number(file));
	if (number(file) < 4 && (!put(file, "4") || number(file) < 4)) {
		put(file, was);
		SKIP(return, "no memory for hugetlb");
	}
	dumped = core_of(dies_with_markers, self, name, &size);
	put(file, was);
	self->mem = map;
	ASSERT_TRUE(dumped);
	EXPECT_LT(size, self->size);
	unlink(name);
}

TEST_HARNESS_MAIN
