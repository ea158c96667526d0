/* SPDX-License-Identifier: GPL-2.0 */
/* The interconnect of the virtual GPUs. Pure: needs no device. */
#ifndef _DEVMEM_TOPO_H_
#define _DEVMEM_TOPO_H_

#include <linux/types.h>

#define DEVMEM_TOPO_NODES	64
#define DEVMEM_TOPO_PAIRS	(DEVMEM_TOPO_NODES * (DEVMEM_TOPO_NODES - 1) / 2)

/**
 * struct devmem_topo - which device's accesses arrive at which
 * @present: bit i is set if there is a device i
 * @wired: bit j of wired[i] is set if the hardware carries accesses between i
 *	and j
 * @told: the same, as it was last told to the kernel. Both masks are symmetric
 *	and have no bit of their own node.
 *
 * Two views, so that a wrong access can be told from an unlucky one: what is
 * told but no longer wired has just died; what is not even told must not be
 * used by anybody.
 *
 * The caller serialises writers. devmem_topo_reach() can run at any time.
 */
struct devmem_topo {
	u64 present;
	u64 wired[DEVMEM_TOPO_NODES];
	u64 told[DEVMEM_TOPO_NODES];
};

/**
 * enum devmem_reach - what becomes of an access
 * @DEVMEM_REACH_OK: it arrives
 * @DEVMEM_REACH_DEAD: the link died, and the kernel is still being told
 * @DEVMEM_REACH_NONE: there is no link, and the kernel knows
 */
enum devmem_reach {
	DEVMEM_REACH_OK,
	DEVMEM_REACH_DEAD,
	DEVMEM_REACH_NONE,
};

/**
 * struct devmem_topo_change - one link to change
 * @a: one end
 * @b: the other end
 * @up: the new state
 */
struct devmem_topo_change {
	u8 a, b;
	bool up;
};

void devmem_topo_add(struct devmem_topo *topo, unsigned int node);
void devmem_topo_remove(struct devmem_topo *topo, unsigned int node);
unsigned int devmem_topo_diff(const struct devmem_topo *topo,
			      const struct devmem_topo_change *changes,
			      unsigned int nr, struct devmem_topo_change *diff);
void devmem_topo_wire(struct devmem_topo *topo, unsigned int a, unsigned int b,
		      bool up);
void devmem_topo_tell(struct devmem_topo *topo, unsigned int a, unsigned int b,
		      bool up);
enum devmem_reach devmem_topo_reach(const struct devmem_topo *topo,
				    unsigned int from, unsigned int to);

#endif /* _DEVMEM_TOPO_H_ */
