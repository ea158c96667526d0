// SPDX-License-Identifier: GPL-2.0
/*
 * A soak test of device memory in clusters, with the virtual GPUs of drm_devmem:
 * one process changes the interconnect all the time, and others write and check
 * memory that moves about on the devices.
 *
 *	devmem_soak [-s seed] [-m minutes | -c changes] [-p processes]
 *		    [-d devices] [-L 0|1] [-C 0|1]
 *
 * Each actor draws what it does from a sequence of its own, which depends only on
 * the seed. So a seed repeats the decisions, but not the scheduling.
 *
 * Every word of a process' memory is known at any time. A word of an earlier version
 * of its page is stale, any other unexpected word is wrong. Pages may only be lost
 * when a device is torn out or its removal is forced (-L 0: never), and then an access
 * must fail. A change of links loses nothing, forced or not.
 *
 * With -C the devices are cards. They are plugged, removed and torn out. A change is
 * one removal of each kind. See devmem_card.h for the host that plugs cards.
 *
 * The exit status is 0 if everything was right, 1 if not, 4 if there are no virtual
 * GPUs.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "devmem_soak.h"

/* Swap for the workers. */
#define SWAP		(64 * DM_MIB)

struct shared *shared;

static struct control control;

/* The arguments of the program. */
static struct {
	double seed, minutes, changes, processes, devices, losses, cards;
} args = { .minutes = 1, .processes = 2, .devices = 6, .losses = 1 };

static struct {
	pid_t control, squeeze, worker[MAX_WORKERS];
	unsigned long life[MAX_WORKERS];
	unsigned int nr;
	/* For the watchdog. */
	unsigned long seen[1 + MAX_WORKERS];
	time_t when[1 + MAX_WORKERS];
	/* When the test began and when it was told to end, or 0. */
	time_t start, stopped;
} all;

static void summary(long seconds)
{
	say("soak: seed %llu, %ld s: %lu changes (%lu refused), ", shared->seed, seconds,
	    shared->changes, shared->refused);
	say("%lu leaves, %lu joins, %lu losses, %lu forced, ", shared->leaves,
	    shared->joins, shared->lost_devices, shared->forced);
	say("%lu evictions, %lu forks, %lu exits, %lu times short of memory; ",
	    shared->evictions, shared->forks, shared->exits, shared->squeezes);
	say("%llu bytes checked, %llu wrong, %llu stale, %lu lost pages seen\n",
	    shared->checked, shared->wrong, shared->stale, shared->lost);
}

static void cards_summary(void)
{
	say("hotplug: seed %llu: %lu cards removed, %lu torn out; ", shared->seed,
	    shared->leaves, shared->lost_devices);
	say("%llu bytes checked, %lu pages evacuated, %lu pages lost, ", shared->checked,
	    shared->evacuated, shared->poisoned);
	say("%lu SIGBUS for %lu lost pages touched, %llu stale bytes, %llu wrong\n",
	    shared->sigbus, shared->lost, shared->stale, shared->wrong);
}

static void start_worker(unsigned int w)
{
	all.life[w]++;
	all.worker[w] = fork();
	if (all.worker[w] < 0)
		complain("fork: %s", strerror(errno));
	if (!all.worker[w]) {
		if (!dm_file_put(CGROUP "/cgroup.procs", "0"))
			fail("the worker cannot join " CGROUP);
		worker_main(w, all.life[w]);
	}
}

/* Start the controller, the process that makes memory short, and the workers. */
static void start(void)
{
	unsigned int w;

	/* Children whose parent ends before them become children of this process. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	all.control = fork();
	if (!all.control)
		args.cards ? cards_main(&control) : control_main(&control);
	close(control.ctl);
	all.squeeze = fork();
	if (!all.squeeze)
		squeeze_main();
	if (all.control < 0 || all.squeeze < 0)
		complain("fork: %s", strerror(errno));
	for (w = 0; w < all.nr; w++)
		start_worker(w);
}

/*
 * Wait for processes that have ended. Returns whether all have ended except for the
 * controller: workers, and children of workers that ended before them.
 */
static bool reap(void)
{
	unsigned int w;
	int status;
	pid_t pid;

	if (waitpid(all.control, &status, WNOHANG) == all.control) {
		all.control = 0;
		if (status && !load(&shared->failed))
			complain("the controller ends with status %#x", status);
	}
	while ((pid = waitpid(0, &status, WNOHANG)) > 0) {
		for (w = 0; w < all.nr && all.worker[w] != pid; w++)
			;
		if (status && !load(&shared->failed) &&
		    !(w < all.nr && load(&shared->killed[w]) &&
		      WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
			complain("process %d ends with status %#x", pid, status);
		if (w == all.nr)
			continue;
		count(&shared->exits, 1);
		store(&shared->killed[w], false);
		shared->actors[1 + w].pid = 0;
		if (!load(&shared->stop) && !load(&shared->failed))
			start_worker(w);
	}
	return pid < 0;
}

/* Find an actor that hangs. */
static void watch(time_t now)
{
	unsigned int i;

	for (i = 0; i <= all.nr; i++) {
		if (!shared->actors[i].pid || !all.when[i] ||
		    shared->actors[i].steps != all.seen[i]) {
			all.seen[i] = shared->actors[i].steps;
			all.when[i] = now;
		} else if (now - all.when[i] > WATCHDOG) {
			complain("actor %u, process %d, hangs", i,
				 shared->actors[i].pid);
			dm_say_stacks();
			return;
		}
	}
}

/* Is the test to end now? */
static bool is_over(time_t now)
{
	return args.changes ? load(&shared->changes) >= args.changes :
			      now - all.start >= args.minutes * 60;
}

/* Watch the processes until all have ended, or one has failed. Returns the time. */
static time_t run(void)
{
	time_t said = all.start, now = all.start;

	while (all.control && !load(&shared->failed)) {
		usleep(100000);
		now = time(NULL);
		watch(now);
		if (reap() && all.stopped)
			store(&shared->quiet, true);
		if (now - said >= PROGRESS) {
			said = now;
			summary(now - all.start);
		}
		if (!all.stopped && is_over(now)) {
			all.stopped = now;
			store(&shared->stop, true);
		}
		/* Each lost page takes its time then: the kernel logs it on the console. */
		if (all.stopped && !load(&shared->quiet) && now - all.stopped > 4 * WATCHDOG) {
			complain("not all processes end");
			dm_say_stacks();
		}
	}
	return now;
}

static bool get_args(int argc, char **argv)
{
	static const char names[] = "smcpdLC";
	double *const values[] = { &args.seed, &args.minutes, &args.changes, &args.processes,
				   &args.devices, &args.losses, &args.cards };
	char *end = "", *at;
	int opt;

	args.seed = dm_mix(time(NULL) ^ getpid()) % 1000000;
	while ((opt = getopt(argc, argv, "s:m:c:p:d:L:C:")) != -1) {
		at = strchr(names, opt);
		end = "?";
		if (at)
			*values[at - names] = strtod(optarg, &end);
		if (*end)
			break;
	}
	if (!*end && args.processes >= 1 && args.processes <= MAX_WORKERS &&
	    args.devices >= 1 && args.devices <= MAX_DEVS)
		return true;
	say("usage: %s [-s seed] [-m minutes | -c changes] [-p processes] ", argv[0]);
	say("[-d devices] [-L 0|1] [-C 0|1]\n");
	return false;
}

/* Open the control device, and set up a cgroup and swap. False if the machine lacks one. */
static bool prepare(void)
{
	control.ctl = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);
	if (control.ctl < 0) {
		say("%s: %s\n", DEVMEM_CTL_PATH, strerror(errno));
		return false;
	}
	dm_file_put("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if ((mkdir(CGROUP, 0755) && errno != EEXIST) ||
	    access(CGROUP "/memory.reclaim", W_OK) || dm_swap_on(SWAP)) {
		say("memory cannot be made short: this takes cgroup v2 at /sys/fs/cgroup,\n"
		    "CONFIG_MEMCG, CONFIG_SWAP, and %s of %lu MiB\n", DM_SWAP, SWAP / DM_MIB);
		return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	time_t now;

	if (!get_args(argc, argv))
		return 1;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	shared->seed = args.seed;
	all.nr = args.processes;
	all.start = time(NULL);
	control.max = args.devices;
	control.lossy = args.losses;
	if (!prepare())
		return KSFT_SKIP;
	say("soak: seed %llu, %u processes, up to %u devices\n", shared->seed, all.nr,
	    control.max);

	start();
	now = run();
	if (all.squeeze > 0)
		kill(all.squeeze, SIGKILL);
	/* If the test has failed, its other children are killed when it exits. */
	say("soak: %lu pages held, %lu evacuated, %lu left over, %lu poisoned, %llu leaked; ",
	    shared->held, shared->evacuated, shared->left, shared->poisoned, shared->leaked);
	say("%lu errors had an excuse\n", shared->excused);
	summary(now - all.start);
	if (args.cards)
		cards_summary();
	/* A thread can be killed between the signal and its own count. */
	if (shared->sigbus < shared->lost ||
	    shared->sigbus > shared->lost + shared->exits * THREADS)
		complain("%lu pages were lost, and there were %lu SIGBUS", shared->lost,
			 shared->sigbus);
	swapoff(DM_SWAP);
	return load(&shared->failed) || load(&shared->suspect) || shared->leaked;
}
