/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the test programs of drm_devmem add to the kselftest harness: a program loads the
 * module, prints a line about the machine, omits variants that repeat other tests, and skips
 * as a whole if it can test nothing.
 */
#ifndef _DEVMEM_HARNESS_H_
#define _DEVMEM_HARNESS_H_

#include <fnmatch.h>
#include <sys/wait.h>
#include <time.h>

#include "../kselftest_harness.h"
#include "devmem_util.h"

/*
 * A timeout only ends a test that hangs. A debug kernel on an emulated, busy machine is a
 * hundred times slower than a real machine.
 */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

/* Limit for waits, in seconds. It only ends a test that hangs. */
#define SOON			120

/*
 * Each program is built twice. Without DEVMEM_ALL it runs each kind of test, but not the
 * variants that struct dm_left names. With DEVMEM_ALL it runs all variants, and gives random
 * tests more rounds. Options such as -r select from all variants in either program.
 */
#ifdef DEVMEM_ALL
#define DM_ALL			true
#else
#define DM_ALL			false
#endif

/**
 * struct dm_left - tests that only the program with all variants runs
 * @tests: a shell pattern of their names
 * @where: if set, this applies only to machines for which it returns true
 * @never: neither program runs them, as they skip on any machine
 */
struct dm_left {
	const char *tests;
	bool (*where)(void);
	bool never;
};

/* Wait until @cond is true; false if the limit is reached first. */
#define dm_soon(cond) ({						\
	time_t __end = time(NULL) + SOON;				\
	bool __met;							\
									\
	while (!(__met = (cond)) && time(NULL) < __end)			\
		usleep(2000);						\
	__met;								\
})

/* @option is an option of modprobe, "-r" to unload the module. */
static inline void dm_modprobe(const char *option, const char *args)
{
	pid_t pid = fork();

	if (!pid) {
		execlp("modprobe", "modprobe", option, "drm_devmem", args, NULL);
		execl("/sbin/modprobe", "modprobe", option, "drm_devmem", args, NULL);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

/*
 * The reason why there are no devices, or NULL. Loads the module, with @args, if it is not
 * loaded.
 */
static inline const char *dm_unusable(const char *args)
{
	int fd = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT && !geteuid()) {
		if (access("/sys/module/drm_devmem", F_OK))
			dm_modprobe("-q", args);
		/* udev makes the node if devtmpfs does not. */
		if (!access("/sys/module/drm_devmem", F_OK))
			dm_soon(!access(DEVMEM_CTL_PATH, F_OK));
		fd = open(DEVMEM_CTL_PATH, O_RDWR | O_CLOEXEC);
	}
	if (fd >= 0) {
		close(fd);
		return NULL;
	}
	if (geteuid() || errno == EPERM || errno == EACCES)
		return DEVMEM_CTL_PATH " can only be opened by root";
	if (errno == ENOENT)
		return "the module drm_devmem cannot be loaded: is CONFIG_DRM_DEVMEM=m set?";
	return DEVMEM_CTL_PATH " cannot be opened";
}

/* Undo changes of the kernel. A program whose tests were all skipped skips as a whole. */
static inline void dm_at_exit(void)
{
	dm_files_restore();
	if (!ksft_plan || ksft_cnt.ksft_xskip != ksft_plan)
		return;
	ksft_print_msg("skipped: no test could be run on this machine\n");
	fflush(NULL);
	_exit(KSFT_SKIP);
}

static inline bool dm_is_left(const struct dm_left *left, const char *name)
{
	for (; left && left->tests; left++)
		if ((left->never || !DM_ALL) && !fnmatch(left->tests, name, 0) &&
		    (!left->where || left->where()))
			return true;
	return false;
}

/*
 * Append an option -r for each test that is to run, unless the user has selected tests.
 * Returns NULL if no test is to run: without options the harness would run all of them.
 */
static inline char **dm_select(int *argc, char **argv, const struct dm_left *left)
{
	static struct __fixture_variant_metadata no_variant = { .name = "" };
	static char *args[2048];
	struct __fixture_variant_metadata *v;
	struct __fixture_metadata *f;
	struct __test_metadata *t;
	int nr, i;

	for (nr = 0; nr < *argc && nr < 1024; nr++) {
		args[nr] = argv[nr];
		/* The user has selected tests. */
		if (argv[nr][0] == '-' && argv[nr][1] && strchr("ftvr", argv[nr][1]))
			return argv;
	}
	for (f = __fixture_list; f; f = f->next) {
		for (v = f->variant ?: &no_variant; v; v = v->next) {
			for (t = f->tests; t; t = t->next) {
				char name[256];

				snprintf(name, sizeof(name), "%s%s%s.%s", f->name,
					 v->name[0] ? "." : "", v->name, t->name);
				if (dm_is_left(left, name))
					continue;
				for (i = 0; i < 2 && nr < (int)ARRAY_SIZE(args) - 1; i++)
					args[nr++] = i ? strdup(name) : "-r";
			}
		}
	}
	if (nr == *argc)
		return NULL;
	*argc = nr;
	return args;
}

/**
 * struct dm_program - a test program
 * @unsuitable: returns the reason why this machine can run none of the tests, or NULL;
 *	called before the module is loaded
 * @args: a parameter of the module, or NULL
 * @machine: prints a line about the machine
 * @left: tests to leave out; the last entry has no @tests
 */
struct dm_program {
	const char *(*unsuitable)(void);
	const char *args;
	void (*machine)(void);
	const struct dm_left *left;
};

/* Run the tests, or print why not. Returns the exit status, KSFT_SKIP if nothing was tested. */
static inline int dm_main(int argc, char **argv, const struct dm_program *program)
{
	int ret = test_harness_argv_check(argc, argv);
	const char *why;

	if (ret != KSFT_PASS)
		return ret;
	/* test_harness_run() looks at the arguments again, and prints a header too. */
	optind = 1;
	ksft_print_header();
	setenv("KSFT_TAP_LEVEL", "1", 1);
	atexit(dm_at_exit);
	why = program->unsuitable ? program->unsuitable() : NULL;
	if (!why)
		why = dm_unusable(program->args);
	if (why)
		ksft_exit_skip("%s\n", why);
	program->machine();
	argv = dm_select(&argc, argv, program->left);
	if (!argv)
		ksft_exit_skip("only the program with all variants tests this machine\n");
	return test_harness_run(argc, argv);
}

#endif /* _DEVMEM_HARNESS_H_ */
