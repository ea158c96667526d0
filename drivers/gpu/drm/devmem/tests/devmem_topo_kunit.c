// SPDX-License-Identifier: GPL-2.0
/* The interconnect of the virtual GPUs, as the hardware sees it. */
#include <kunit/test.h>
#include <linux/prandom.h>
#include <linux/random.h>

#include "../devmem_topo.h"

static struct devmem_topo *topo_alloc(struct kunit *test, unsigned int nodes)
{
	struct devmem_topo *topo = kunit_kzalloc(test, sizeof(*topo), GFP_KERNEL);
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, topo);
	for (i = 0; i < nodes; i++)
		devmem_topo_add(topo, i);
	return topo;
}

/* Symmetric, no link to itself, none to somebody who is not there. */
static void topo_check(struct kunit *test, const struct devmem_topo *topo)
{
	unsigned int a, b;

	for (a = 0; a < DEVMEM_TOPO_NODES; a++) {
		KUNIT_EXPECT_EQ(test, topo->wired[a] & BIT_ULL(a), 0);
		KUNIT_EXPECT_EQ(test, topo->wired[a] & ~topo->present, 0);
		KUNIT_EXPECT_EQ(test, topo->told[a] & ~topo->present, 0);
		for (b = 0; b < DEVMEM_TOPO_NODES; b++) {
			KUNIT_EXPECT_EQ(test, !!(topo->wired[a] & BIT_ULL(b)),
					!!(topo->wired[b] & BIT_ULL(a)));
			KUNIT_EXPECT_EQ(test, !!(topo->told[a] & BIT_ULL(b)),
					!!(topo->told[b] & BIT_ULL(a)));
		}
	}
}

static void topo_reach_test(struct kunit *test)
{
	struct devmem_topo *topo = topo_alloc(test, 3);

	KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, 1, 1), DEVMEM_REACH_OK);
	KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, 0, 1), DEVMEM_REACH_NONE);

	/* Comes up: reachable as soon as it is wired. */
	devmem_topo_wire(topo, 0, 1, true);
	KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, 0, 1), DEVMEM_REACH_OK);
	KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, 1, 0), DEVMEM_REACH_OK);
	KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, 0, 2), DEVMEM_REACH_NONE);
	devmem_topo_tell(topo, 0, 1, true);
	topo_check(test, topo);

	/* Dies: bad luck until the kernel knows, then nobody's right. */
	devmem_topo_wire(topo, 1, 0, false);
	KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, 0, 1), DEVMEM_REACH_DEAD);
	KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, 1, 0), DEVMEM_REACH_DEAD);
	devmem_topo_tell(topo, 1, 0, false);
	KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, 0, 1), DEVMEM_REACH_NONE);
	topo_check(test, topo);
}

static void topo_remove_test(struct kunit *test)
{
	struct devmem_topo *topo = topo_alloc(test, DEVMEM_TOPO_NODES);
	unsigned int a, b;

	for (a = 0; a < DEVMEM_TOPO_NODES; a++) {
		for (b = a + 1; b < DEVMEM_TOPO_NODES; b++) {
			devmem_topo_wire(topo, a, b, true);
			devmem_topo_tell(topo, a, b, true);
		}
	}
	topo_check(test, topo);

	for (a = 0; a < DEVMEM_TOPO_NODES; a++) {
		devmem_topo_remove(topo, a);
		topo_check(test, topo);
		KUNIT_EXPECT_EQ(test, devmem_topo_reach(topo, a, a),
				DEVMEM_REACH_NONE);
		KUNIT_EXPECT_EQ(test,
				devmem_topo_reach(topo, DEVMEM_TOPO_NODES - 1, a),
				DEVMEM_REACH_NONE);
	}

	/* A successor with the same number begins without links. */
	devmem_topo_add(topo, 5);
	KUNIT_EXPECT_EQ(test, topo->wired[5], 0);
	KUNIT_EXPECT_EQ(test, topo->told[5], 0);
}

static void topo_diff_test(struct kunit *test)
{
	static const struct devmem_topo_change changes[] = {
		{ .a = 1, .b = 0, .up = true },		/* is so already */
		{ .a = 2, .b = 0, .up = true },
		{ .a = 0, .b = 2, .up = true },		/* twice */
		{ .a = 1, .b = 2, .up = true },
		{ .a = 2, .b = 1, .up = false },	/* thought better of it */
		{ .a = 3, .b = 2, .up = false },
	};
	struct devmem_topo *topo = topo_alloc(test, 4);
	struct devmem_topo_change *diff;

	diff = kunit_kcalloc(test, DEVMEM_TOPO_PAIRS, sizeof(*diff), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, diff);

	devmem_topo_tell(topo, 0, 1, true);
	devmem_topo_tell(topo, 2, 3, true);
	KUNIT_ASSERT_EQ(test, devmem_topo_diff(topo, changes,
					       ARRAY_SIZE(changes), diff), 2);
	KUNIT_EXPECT_EQ(test, diff[0].a, 0);
	KUNIT_EXPECT_EQ(test, diff[0].b, 2);
	KUNIT_EXPECT_TRUE(test, diff[0].up);
	KUNIT_EXPECT_EQ(test, diff[1].a, 2);
	KUNIT_EXPECT_EQ(test, diff[1].b, 3);
	KUNIT_EXPECT_FALSE(test, diff[1].up);
}

/* Applying the difference gives what was asked for, whatever it was. */
static void topo_random_test(struct kunit *test)
{
	struct devmem_topo_change *changes, *diff;
	unsigned int round, i, nr;
	struct devmem_topo *topo;
	struct rnd_state rnd;
	u64 seed = get_random_u64();

	kunit_info(test, "seed %llu\n", seed);
	prandom_seed_state(&rnd, seed);

	topo = topo_alloc(test, DEVMEM_TOPO_NODES);
	changes = kunit_kcalloc(test, 256, sizeof(*changes), GFP_KERNEL);
	diff = kunit_kcalloc(test, DEVMEM_TOPO_PAIRS, sizeof(*diff), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, changes);
	KUNIT_ASSERT_NOT_NULL(test, diff);

	for (round = 0; round < 100; round++) {
		for (i = 0; i < 256; i++) {
			u32 r = prandom_u32_state(&rnd);

			changes[i].a = r % DEVMEM_TOPO_NODES;
			changes[i].b = (changes[i].a + 1 + (r >> 8) %
					(DEVMEM_TOPO_NODES - 1)) % DEVMEM_TOPO_NODES;
			changes[i].up = r >> 31;
		}

		nr = devmem_topo_diff(topo, changes, 256, diff);
		KUNIT_ASSERT_LE(test, nr, DEVMEM_TOPO_PAIRS);
		for (i = 0; i < nr; i++) {
			devmem_topo_wire(topo, diff[i].a, diff[i].b, diff[i].up);
			devmem_topo_tell(topo, diff[i].a, diff[i].b, diff[i].up);
		}
		topo_check(test, topo);
		KUNIT_EXPECT_EQ(test, devmem_topo_diff(topo, changes, 256, diff), 0);
	}
}

static struct kunit_case devmem_topo_cases[] = {
	KUNIT_CASE(topo_reach_test),
	KUNIT_CASE(topo_remove_test),
	KUNIT_CASE(topo_diff_test),
	KUNIT_CASE(topo_random_test),
	{}
};

static struct kunit_suite devmem_topo_suite = {
	.name = "devmem_topo",
	.test_cases = devmem_topo_cases,
};

kunit_test_suite(devmem_topo_suite);

MODULE_DESCRIPTION("KUnit tests of the virtual GPUs' interconnect");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
