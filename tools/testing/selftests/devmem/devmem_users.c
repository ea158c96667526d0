// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of processes whose memory is on devices that change: processes that fork, are
 * stopped, are killed or may have no more memory; and processes that stall a page fault. No
 * process delays a change by any of this.
 *
 * devmem_users_all is built from the same source. left_to_all[] lists the tests that only
 * devmem_users_all runs.
 */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "devmem_pages.h"
#include "devmem_task.h"

/* --- fork --- */

/* The child of fork_and_cow writes to a quarter of the blocks, in three ways. */
static void cow_child(struct world *w, struct dm_area *area, struct child *child)
{
	int fds[MAX_DEVS];
	size_t b;

	child_open(w, fds);
	w->generation += 1000;
	CHILD_CHECK(area_seen(area, 0, area->nr, fds[1]));
	for (b = 0; b < area->nr; b += 8) {
		area_write(w, area, b, 1);
		CHILD_CHECK(!area_fill(w, area, b + 1, fds[0]));
		CHILD_CHECK(!area_add(w, area, b + 2, fds[1]));
		CHILD_CHECK(!dm_block_wrong(area, b + 3));
	}
	CHILD_CHECK(area_seen(area, 0, area->nr, fds[0]));
	child_step(child);

	/* The parent has written meanwhile. */
	CHILD_CHECK(area_seen(area, 0, area->nr, fds[1]));
	CHILD_CHECK(!dm_area_wrong(area, 0, area->nr));
	_exit(0);
}

/* Parent and child write to memory that they share after a fork. Neither sees the other's. */
TEST_F(pages, fork_and_cow)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct child child;
	size_t b;

	/* Both devices have mapped it. */
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));

	if (child_fork(_metadata, &child))
		cow_child(w, area, &child);
	ASSERT_TRUE(child_waits(&child));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	for (b = 0; b < area->nr; b += 4) {
		area_write(w, area, b, 1);
		EXPECT_EQ(0, area_fill(w, area, b + 1, w->dev[1].fd));
		EXPECT_EQ(0, area_add(w, area, b + 2, w->dev[0].fd));
	}
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);

	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* Pages that a child has inherited are rehomed, and then evacuated. */
TEST_F(pages, fork_rehome_and_leave)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct dm_area ballast;
	struct child child;

	/* Device 0 holds more, so device 1 leaves the cluster. */
	area_init(_metadata, &ballast, BLOCK, BLOCK, false);
	area_put(_metadata, &ballast, 0, 1, &w->dev[0]);

	if (child_fork(_metadata, &child)) {
		int fds[MAX_DEVS];

		child_open(w, fds);
		CHILD_CHECK(area_seen(area, 0, area->nr, fds[0]));
		child_step(&child);

		/* The link is down. */
		CHILD_CHECK(area_seen(area, 0, HALF, fds[0]));
		CHILD_CHECK(area_seen(area, HALF, HALF, fds[1]));
		area_write(w, area, HALF + 3, 1);
		child_step(&child);

		/* Device 1 has left. */
		CHILD_CHECK(area_seen(area, 0, area->nr, fds[0]));
		CHILD_CHECK(!dm_area_wrong(area, 0, area->nr));
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));

	pages_split(_metadata, w, HALF_PAGES);
	EXPECT_EQ(HALF_PAGES,
		  area_on(_metadata, area, w->dev[0].fd, &w->dev[0]));
	EXPECT_TRUE(area_seen(area, 0, HALF, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[1].fd));
	ASSERT_TRUE(child_go(&child));
	ASSERT_TRUE(child_waits(&child));

	dev_del(_metadata, w, 1, 0, &stats);
	EXPECT_EQ(stats.pages_evacuated * DM_PAGE, stats.bytes_copied);
	EXPECT_EQ(0, area_on(_metadata, area, w->dev[0].fd, &w->dev[1]));
	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);

	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
	dm_area_fini(&ballast);
}

/* The child leaves its memory to a grandchild, and exits. */
static void orphan_child(struct world *w, struct child *child, bool huge)
{
	struct dm_area area;
	int fds[MAX_DEVS];
	unsigned int i;
	char good;
	pid_t pid;

	CHILD_CHECK(!dm_area_init(&area, 2 * HALF_LEN, BLOCK, huge));
	area_write(w, &area, 0, area.nr);
	child_open(w, fds);
	for (i = 0; i < 2; i++)
		CHILD_CHECK(dm_migrate(fds[i], dm_block(&area, i * HALF), HALF_LEN,
				       DEVMEM_MIGRATE_TO_DEVICE) == (long)HALF_PAGES);
	for (i = 0; i < 2; i++)
		CHILD_CHECK(area_seen(&area, 0, area.nr, fds[i]));

	pid = fork();
	CHILD_CHECK(pid >= 0);
	if (pid)
		_exit(0);

	for (i = 0; i < 2; i++)
		close(fds[i]);
	/* A device has left. */
	child_step(child);
	good = !dm_area_wrong(&area, 0, area.nr);
	CHILD_CHECK(write(child->done[1], &good, 1) == 1);
	_exit(0);
}

/* The process that first mapped the pages has exited before they are rehomed. */
TEST_F(pages, orphan_rehome_and_leave)
{
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct child child;
	char good = 0;

	pages_drop(_metadata, w, &self->area);
	if (child_fork(_metadata, &child))
		orphan_child(w, &child, self->huge);
	EXPECT_TRUE(child_good(&child));
	ASSERT_TRUE(child_waits(&child));

	pages_split(_metadata, w, HALF_PAGES);
	pages_merge(_metadata, w, HALF_PAGES);
	dev_del(_metadata, w, 0, 0, &stats);
	EXPECT_EQ(HALF_PAGES, stats.pages_evacuated);

	ASSERT_TRUE(child_go(&child));
	ASSERT_EQ(1, read(child.done[0], &good, 1));
	EXPECT_EQ(1, good);
	child_fini(&child);
}

/* --- processes that are stopped, killed, or short of memory --- */

/* A process that is stopped does not delay a removal. */
static void stopped_process(struct __test_metadata *_metadata, struct world *w,
			    struct dm_area *own, bool huge, __u32 flags)
{
	struct devmem_op_stats stats;
	struct child child;
	int status;

	if (child_fork(_metadata, &child)) {
		struct dm_area area;
		int fds[MAX_DEVS];
		__u64 sum;

		child_area(w, fds, &area, HALF_LEN, huge, 1);
		CHILD_CHECK(area_seen(&area, 0, area.nr, fds[0]));
		CHILD_CHECK(area_seen(&area, 0, area.nr, fds[1]));
		raise(SIGSTOP);
		CHILD_CHECK(dm_checksum(fds[1], area.mem, area.len, &sum) ==
			    -ENODEV);
		CHILD_CHECK(area_seen(&area, 0, area.nr, fds[0]));
		CHILD_CHECK(!dm_area_wrong(&area, 0, area.nr));
		_exit(0);
	}
	ASSERT_EQ(child.pid, waitpid(child.pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));

	pages_relink(_metadata, w);
	/* The process stays stopped until the device is removed. */
	EXPECT_EQ(0, destroy_within(w, 1, flags, LONG_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
	EXPECT_EQ(2 * HALF_PAGES, stats.pages_evacuated);

	ASSERT_EQ(0, kill(child.pid, SIGCONT));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	EXPECT_EQ(0, dm_area_wrong(own, 0, own->nr));
}

TEST_F(pages, stopped_process)
{
	stopped_process(_metadata, &self->w, &self->area, self->huge, 0);
}

TEST_F(pages, stopped_process_forced)
{
	stopped_process(_metadata, &self->w, &self->area, self->huge, DEVMEM_FORCE);
}

/* Nothing delays the removal of device 0, and nothing is lost. */
static void del_loses_nothing(struct __test_metadata *_metadata, struct world *w,
			      __u32 flags)
{
	struct devmem_op_stats stats;

	EXPECT_EQ(0, destroy_within(w, 0, flags, LONG_MS, &stats));
	EXPECT_EQ(0, stats.pages_poisoned);
}

/* A process that is killed while it uses the device does not delay a removal. */
static void killed_process(struct __test_metadata *_metadata, struct world *w,
			   struct dm_area *own, bool huge, __u32 flags)
{
	struct devmem_stats before, now;
	struct child child;
	int status;

	if (child_fork(_metadata, &child)) {
		struct dm_area area;
		int fds[MAX_DEVS];

		child_area(w, fds, &area, 2 * HALF_LEN, huge, 0);
		child_step(&child);
		for (;;)
			dm_fill(fds[0], area.mem, area.len, 1);
	}
	ASSERT_TRUE(child_waits(&child));
	ASSERT_EQ(0, dm_stats(w->dev[0].fd, &before));
	ASSERT_TRUE(child_go(&child));
	/* The process uses the device by now. */
	ASSERT_TRUE(dm_soon(!dm_stats(w->dev[0].fd, &now) &&
			    now.device_faults > before.device_faults));
	ASSERT_EQ(0, kill(child.pid, SIGKILL));
	/* It may be about to exit, or be a zombie. */
	del_loses_nothing(_metadata, w, flags);
	ASSERT_EQ(child.pid, waitpid(child.pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	child_fini(&child);
	EXPECT_EQ(0, dm_area_wrong(own, 0, own->nr));
}

TEST_F(pages, killed_process)
{
	killed_process(_metadata, &self->w, &self->area, self->huge, 0);
}

TEST_F(pages, killed_process_forced)
{
	killed_process(_metadata, &self->w, &self->area, self->huge, DEVMEM_FORCE);
}

/* A removal does not kill a process that may have no more memory than it has. */
static void full_memcg(struct __test_metadata *_metadata, struct world *w,
		       struct dm_area *own, bool huge, __u32 flags)
{
	struct child child;
	char text[32];

	dm_file_put("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "no cgroup v2 at /sys/fs/cgroup");
	if (access(CGROUP "/memory.max", W_OK))
		SKIP(return, "no memory controller");

	if (child_fork(_metadata, &child)) {
		struct dm_area area;
		int fds[MAX_DEVS];

		CHILD_CHECK(dm_file_put(CGROUP "/cgroup.procs", "0"));
		child_area(w, fds, &area, HALF_LEN, huge, 0);
		child_step(&child);
		CHILD_CHECK(!dm_area_wrong(&area, 0, area.nr));
		_exit(0);
	}
	ASSERT_TRUE(child_waits(&child));
	snprintf(text, sizeof(text), "%ld", dm_file_get(CGROUP "/memory.current", NULL));
	ASSERT_TRUE(dm_file_put(CGROUP "/memory.max", text));

	del_loses_nothing(_metadata, w, flags);
	EXPECT_EQ(0, dm_file_get(CGROUP "/memory.events", "oom_kill "));
	ASSERT_TRUE(dm_file_put(CGROUP "/memory.max", "max"));
	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	EXPECT_EQ(0, dm_area_wrong(own, 0, own->nr));
	EXPECT_EQ(0, rmdir(CGROUP));
}

TEST_F(pages, full_memcg)
{
	full_memcg(_metadata, &self->w, &self->area, self->huge, 0);
}

TEST_F(pages, full_memcg_forced)
{
	full_memcg(_metadata, &self->w, &self->area, self->huge, DEVMEM_FORCE);
}

/* --- files of a removed device --- */

/* No request works on a file of a removed device. */
static void file_is_dead(struct __test_metadata *_metadata, int fd, const struct dm_area *area)
{
	struct devmem_stats stats;
	struct devmem_info info;
	struct dm_where where;
	__u64 sum;

	EXPECT_EQ(-ENODEV, dm_info(fd, &info));
	EXPECT_EQ(-ENODEV, dm_stats(fd, &stats));
	EXPECT_EQ(-ENODEV, dm_checksum(fd, area->mem, BLOCK, &sum));
	EXPECT_EQ(-ENODEV, dm_fill(fd, area->mem, BLOCK, 1));
	EXPECT_EQ(-ENODEV, dm_migrate(fd, area->mem, BLOCK, DEVMEM_MIGRATE_TO_DEVICE));
	EXPECT_EQ(-ENODEV, dm_migrate(fd, area->mem, BLOCK, DEVMEM_MIGRATE_TO_SYSTEM));
	EXPECT_EQ(-ENODEV, dm_where(fd, area->mem, BLOCK, &where));
}

/* A device is removed while files of it are open. */
TEST_F(pages, open_files_of_a_removed_device)
{
	struct dm_area *area = &self->area;
	struct world *w = &self->w;
	struct devmem_topology_entry entries[2] = {};
	struct devmem_info info;
	struct devmem_link link = { .up = 1 };
	__u32 id;
	int fd;

	link.a = w->dev[0].id;
	link.b = w->dev[1].id;
	fd = dm_open(w->dev[1].minor);
	ASSERT_GE(fd, 0);
	ASSERT_TRUE(area_seen(area, 0, area->nr, w->dev[1].fd));
	ASSERT_EQ(0, dev_leave(_metadata, w, 1, 0, NULL));

	/* A file that was in use, and a file that was not. */
	file_is_dead(_metadata, w->dev[1].fd, area);
	file_is_dead(_metadata, fd, area);
	EXPECT_LT(dm_open(w->dev[1].minor), 0);
	EXPECT_EQ(-ENOENT, dm_destroy(w->ctl, w->dev[1].id, 0, NULL));
	EXPECT_EQ(-ENOENT, dm_destroy(w->ctl, w->dev[1].id, DEVMEM_FORCE, NULL));
	EXPECT_EQ(-ENOENT, dm_links(w->ctl, &link, 1, 0, NULL));
	EXPECT_GE(dm_topology(w->ctl, entries, 2), 1);
	for (int i = 0; i < 2; i++)
		EXPECT_NE(w->dev[1].minor, entries[i].render_minor);

	/* A new device with the same id does not revive the old files. */
	close(fd);
	fd = w->dev[1].fd;
	id = w->dev[1].id;
	dev_add(_metadata, w, 1, 0);
	EXPECT_EQ(id, w->dev[1].id);
	EXPECT_EQ(-ENODEV, dm_info(fd, &info));
	close(fd);

	EXPECT_TRUE(area_seen(area, 0, area->nr, w->dev[0].fd));
	EXPECT_TRUE(area_seen(area, HALF, HALF, w->dev[1].fd));
	EXPECT_EQ(0, dm_area_wrong(area, 0, area->nr));
}

/* --- stalled faults --- */

/* Register memory with userfaultfd. Returns the file or a negative errno. */
static int uffd_open(void *mem, size_t len, __u64 mode)
{
	struct uffdio_register reg = {
		.range = { (unsigned long)mem, len },
		.mode = mode,
	};
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = mode == UFFDIO_REGISTER_MODE_WP ?
			    UFFD_FEATURE_PAGEFAULT_FLAG_WP : 0,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK), err;

	if (fd < 0)
		return -errno;
	err = dm_ioctl(fd, UFFDIO_API, &api) ?: dm_ioctl(fd, UFFDIO_REGISTER, &reg);
	if (!err)
		return fd;
	close(fd);
	return err;
}

/* Wait until a fault stalls. */
static bool uffd_stalls(int uffd)
{
	struct pollfd pollfd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	return poll(&pollfd, 1, SOON * 1000) == 1 &&
	       read(uffd, &msg, sizeof(msg)) == sizeof(msg) &&
	       msg.event == UFFD_EVENT_PAGEFAULT;
}

/* Protect memory from being written, or let faults that have stalled go on. */
static int uffd_protect(int uffd, void *mem, size_t len, bool on)
{
	struct uffdio_writeprotect args = {
		.range = { (unsigned long)mem, len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return dm_ioctl(uffd, UFFDIO_WRITEPROTECT, &args);
}

/* Map zeroes, and let faults that have stalled go on. */
static int uffd_zero(int uffd, void *mem, size_t len)
{
	struct uffdio_zeropage args = { .range = { (unsigned long)mem, len } };

	return dm_ioctl(uffd, UFFDIO_ZEROPAGE, &args);
}

/*
 * A fault of device 0 has found pages of device 1, and is about to map them, when the link
 * goes down. The fault stalls in between, as it needs one more page for writing, which is
 * protected by userfaultfd.
 */
TEST_F(pages, fault_against_link_down)
{
	const size_t nr = BLOCK / DM_PAGE;
	struct devmem_exec exec = {
		.op = DEVMEM_OP_FILL,
		.flags = DEVMEM_EXEC_COUNT,
		.len = BLOCK,
		.value = 42,
	};
	struct devmem_stats before, after;
	struct world *w = &self->w;
	struct request fault = {};
	struct dm_area area;
	void *last;
	size_t p;
	int uffd;

	/* Device 1 holds more, so device 0 gets the new owner, and the pages keep theirs. */
	ASSERT_EQ((long)HALF_PAGES, dm_migrate(w->dev[0].fd, self->area.mem, HALF_LEN,
					       DEVMEM_MIGRATE_TO_SYSTEM));
	area_init(_metadata, &area, BLOCK, DM_PAGE, false);
	area_write(w, &area, 0, nr);
	exec.dst = (unsigned long)area.mem;
	last = dm_block(&area, nr - 1);
	uffd = uffd_open(area.mem, area.len, UFFDIO_REGISTER_MODE_WP);
	if (uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(-uffd));
	area_put(_metadata, &area, 0, nr / 2, &w->dev[1]);
	ASSERT_EQ(0, uffd_protect(uffd, last, DM_PAGE, true));
	ASSERT_EQ(0, dm_stats(w->dev[0].fd, &before));

	ASSERT_TRUE(request_start(&fault, w->dev[0].fd, DRM_IOCTL_DEVMEM_EXEC, &exec));
	ASSERT_TRUE(uffd_stalls(uffd));
	EXPECT_EQ(0, set_links(w, 1, 2, false, 0, NULL));
	EXPECT_FALSE(task_done(&fault.task));
	ASSERT_EQ(0, uffd_protect(uffd, last, DM_PAGE, false));
	EXPECT_TRUE(task_wait(&fault.task));
	EXPECT_EQ(0, fault.task.err);
	close(uffd);

	/* The fault has noticed, and the pages have come to system memory. */
	for (p = 0; p < nr; p++)
		area.base[p] = exec.value + p * (DM_PAGE / DM_WORD);
	EXPECT_TRUE(area_seen(&area, 0, nr, w->dev[0].fd));
	ASSERT_EQ(0, dm_stats(w->dev[0].fd, &after));
	EXPECT_EQ(before.mapped_peer, after.mapped_peer);
	EXPECT_EQ(0, after.violations);
	EXPECT_EQ(0, dm_area_wrong(&area, 0, nr));
	EXPECT_EQ(0, dm_area_wrong(&self->area, 0, self->area.nr));
	dm_area_fini(&area);
}

/*
 * Devices 0 and 1 are linked, device 2 is alone. Each has a share of the memory. A fault of
 * device 0 stalls, as the page that it is for is missing.
 */
FIXTURE(stalled)
{
	struct world w;
	struct dm_area area;
	/* The page that is missing, and what the process reads there in the end. */
	struct dm_area gap;
	int uffd;
	struct devmem_exec exec;
	struct request fault;
};

FIXTURE_SETUP(stalled)
{
	struct world *w = &self->w;
	unsigned int i;

	w->ctl = -1;
	area_init(_metadata, &self->gap, DM_PAGE, DM_PAGE, false);
	self->uffd = uffd_open(self->gap.mem, DM_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	if (self->uffd < 0)
		SKIP(return, "no userfaultfd: %s", strerror(-self->uffd));
	world_init(_metadata, w, 3, CHUNK_SIZE);
	ASSERT_EQ(0, set_links(w, 1U << 0, 1U << 1, true, 0, NULL));
	area_init(_metadata, &self->area, 3 * SHARE_SMALL, SHARE_SMALL, false);
	area_write(w, &self->area, 0, 3);
	for (i = 0; i < 3; i++)
		area_put(_metadata, &self->area, i, 1, &w->dev[i]);

	self->exec = (struct devmem_exec){
		.op = DEVMEM_OP_FILL,
		.flags = DEVMEM_EXEC_COUNT,
		.dst = (unsigned long)self->gap.mem,
		.len = DM_PAGE,
		.value = 42,
	};
	ASSERT_TRUE(request_start(&self->fault, w->dev[0].fd, DRM_IOCTL_DEVMEM_EXEC,
				  &self->exec));
	ASSERT_TRUE(uffd_stalls(self->uffd));
}

FIXTURE_TEARDOWN(stalled)
{
	if (self->fault.task.pid)
		task_kill(&self->fault.task);
	if (self->uffd >= 0)
		close(self->uffd);
	if (self->area.mem)
		dm_area_fini(&self->area);
	dm_area_fini(&self->gap);
	world_fini(_metadata, &self->w);
}

/* The fault has been stalled up to here. Let it go on; the command ends with @want. */
static void fault_ends(struct __test_metadata *_metadata, struct _test_data_stalled *self, int want)
{
	EXPECT_FALSE(task_done(&self->fault.task));
	ASSERT_EQ(0, uffd_zero(self->uffd, self->gap.mem, DM_PAGE));
	EXPECT_TRUE(task_wait(&self->fault.task));
	EXPECT_EQ(want, self->fault.task.err);
	self->gap.base[0] = self->exec.value;
	EXPECT_TRUE(want ? is_zero(self->gap.mem, DM_PAGE) : !dm_block_wrong(&self->gap, 0));
}

/* Links of the device change. */
TEST_F(stalled, links_change)
{
	const __u32 flags[] = { 0, DEVMEM_FORCE };
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	unsigned int i;

	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, set_links(w, 1U << 0, 1U << 1, false, flags[i], &stats));
		copied_nothing(_metadata, &stats);
		EXPECT_TRUE(area_seen(&self->area, 1, 1, w->dev[1].fd));
		EXPECT_EQ(0, set_links(w, 1U << 0, 1U << 1, true, 0, &stats));
		copied_nothing(_metadata, &stats);
		EXPECT_TRUE(area_seen(&self->area, 0, 2, w->dev[1].fd));
	}
	EXPECT_EQ(0, set_links(w, 1U << 2, 1U << 0 | 1U << 1, true, 0, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_TRUE(area_seen(&self->area, 0, 3, w->dev[2].fd));
	fault_ends(_metadata, self, 0);
	EXPECT_TRUE(area_seen(&self->area, 0, 3, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(&self->area, 0, 3));
}

/* A device is added, another one is lost, and another one leaves. */
TEST_F(stalled, other_devices_come_and_go)
{
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct dm_where where;

	dev_add(_metadata, w, 3, CHUNK_SIZE);
	w->nr = 4;
	EXPECT_EQ(0, set_links(w, 1U << 3, 1U << 0 | 1U << 1, true, 0, &stats));
	EXPECT_TRUE(area_seen(&self->area, 0, 2, w->dev[3].fd));
	EXPECT_EQ(0, destroy_within(w, 2, DEVMEM_LOST, LONG_MS, &stats));
	EXPECT_EQ(SHARE_SMALL / DM_PAGE, stats.pages_poisoned);
	EXPECT_TRUE(is_lost(&self->area, 2, 1, 13));
	EXPECT_EQ(0, destroy_within(w, 1, 0, LONG_MS, &stats));
	EXPECT_EQ(SHARE_SMALL / DM_PAGE, stats.pages_evacuated);
	/* A query of the same process is answered. */
	EXPECT_EQ(0, dm_where(w->dev[3].fd, self->gap.mem, DM_PAGE, &where));
	EXPECT_EQ(1, where.none);
	fault_ends(_metadata, self, 0);
	EXPECT_TRUE(area_seen(&self->area, 0, 2, w->dev[0].fd));
	EXPECT_EQ(0, dm_area_wrong(&self->area, 0, 2));
}

/* The device itself leaves. */
TEST_F(stalled, device_leaves)
{
	struct devmem_op_stats stats;

	EXPECT_EQ(0, destroy_within(&self->w, 0, 0, LONG_MS, &stats));
	EXPECT_EQ(SHARE_SMALL / DM_PAGE, stats.pages_evacuated);
	fault_ends(_metadata, self, -ENODEV);
	EXPECT_EQ(0, dm_area_wrong(&self->area, 0, 3));
}

/* The device itself is lost. */
TEST_F(stalled, device_is_lost)
{
	struct devmem_op_stats stats;

	EXPECT_EQ(0, destroy_within(&self->w, 0, DEVMEM_LOST, LONG_MS, &stats));
	EXPECT_EQ(SHARE_SMALL / DM_PAGE, stats.pages_poisoned);
	fault_ends(_metadata, self, -ENODEV);
	EXPECT_TRUE(is_lost(&self->area, 0, 1, 13));
	EXPECT_EQ(0, dm_area_wrong(&self->area, 1, 2));
}

/* --- a process that blocks its own mmap_lock --- */

/**
 * struct blocked - tasks of one process that all wait for its mmap_lock
 * @locker: keeps a page of the process locked
 * @reader: accesses the page: it waits for the lock of the page, and has mmap_lock for read
 * @writer: maps memory: it waits for mmap_lock for write
 * @query: asks where the page is: it waits behind @writer
 */
struct blocked {
	struct request locker;
	struct task reader, writer;
	struct request query;
};

static int read_main(void *arg)
{
	return __atomic_load_n((char *)arg, __ATOMIC_RELAXED) & 0;
}

static int map_main(void *arg)
{
	void *mem = mmap(NULL, DM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)arg;
	return mem == MAP_FAILED ? -ENOMEM : 0;
}

static bool is_blocked(const struct task *t)
{
	return task_state(t) == 'D' && !task_done(t);
}

/* The child has all requests of its process blocked, until the test has done its work. */
static void blocked_child(struct world *w, struct child *child, bool huge)
{
	static struct blocked t;
	static __u32 entry;
	struct devmem_query query = { .len = DM_PAGE, .pages = (unsigned long)&entry };
	struct devmem_hold hold = { .flags = DEVMEM_HOLD_LOCK, .ms = LONG_MS };
	struct dm_area area;
	int fds[MAX_DEVS];

	child_area(w, fds, &area, HALF_LEN, huge, 0);
	query.addr = (unsigned long)area.mem;
	hold.addr = (unsigned long)area.mem;
	CHILD_CHECK(!dm_ioctl(fds[0], DRM_IOCTL_DEVMEM_QUERY, &query));
	CHILD_CHECK(request_start(&t.locker, fds[0], DRM_IOCTL_DEVMEM_HOLD, &hold));
	CHILD_CHECK(dm_soon(is_holding(&t.locker)));
	CHILD_CHECK(task_start(&t.reader, read_main, area.mem));
	CHILD_CHECK(dm_soon(is_blocked(&t.reader)));
	CHILD_CHECK(task_start(&t.writer, map_main, NULL));
	CHILD_CHECK(dm_soon(is_blocked(&t.writer)));
	CHILD_CHECK(request_start(&t.query, fds[0], DRM_IOCTL_DEVMEM_QUERY, &query));
	CHILD_CHECK(dm_soon(is_blocked(&t.query.task)));
	child_step(child);

	CHILD_CHECK(is_holding(&t.locker) && !task_done(&t.query.task));
	CHILD_CHECK(task_kill(&t.locker.task));
	CHILD_CHECK(task_wait(&t.reader) && task_wait(&t.writer) && !t.writer.err);
	CHILD_CHECK(task_wait(&t.query.task) && !t.query.task.err);
	CHILD_CHECK(!dm_area_wrong(&area, 0, area.nr));
	_exit(0);
}

/* Nothing but the process itself waits for its mmap_lock. */
TEST_F(pages, mmap_lock_is_blocked)
{
	struct dm_area *area = &self->area;
	struct devmem_op_stats stats;
	struct world *w = &self->w;
	struct child child;

	if (coherent())
		SKIP(return, "the CPU takes no faults on coherent memory");
	if (child_fork(_metadata, &child))
		blocked_child(w, &child, self->huge);
	ASSERT_TRUE(child_waits(&child));

	dev_add(_metadata, w, 2, CHUNK_SIZE);
	w->nr = 3;
	EXPECT_EQ(0, set_links(w, 1U << 2, 1U << 0 | 1U << 1, true, 0, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(1, stats.peers_moved);
	EXPECT_EQ(0, set_links(w, 1U << 2, 1U << 0 | 1U << 1, false, 0, &stats));
	copied_nothing(_metadata, &stats);
	EXPECT_EQ(1, stats.peers_moved);
	EXPECT_EQ(0, destroy_within(w, 1, DEVMEM_LOST, LONG_MS, &stats));
	EXPECT_EQ(HALF_PAGES, stats.pages_poisoned);
	EXPECT_TRUE(is_lost(area, HALF, HALF, 13));
	EXPECT_TRUE(area_seen(area, 0, HALF, w->dev[0].fd));

	ASSERT_TRUE(child_go(&child));
	EXPECT_TRUE(child_good(&child));
	child_fini(&child);
	EXPECT_EQ(0, dm_area_wrong(area, 0, HALF));
}

/* Only devmem_users_all runs these: they repeat what other variants show. */
static const struct dm_left left_to_all[] = {
	/* The size of pages makes no difference here. */
	{ "pages.huge.fault_against_link_down" },
	{ "pages.huge.open_files_of_a_removed_device" },
	{ "pages.huge.stopped_process*" },
	{ "pages.huge.killed_process*" },
	{ "pages.huge.full_memcg*" },
	{ "pages.huge.mmap_lock_is_blocked" },
	/* Coherent memory has no huge pages. */
	{ "pages.huge.*", coherent },
	{ }
};

int main(int argc, char **argv)
{
	return world_main(argc, argv, left_to_all);
}
