// SPDX-License-Identifier: GPL-2.0
/*
 * The interconnect of the virtual GPUs, as the hardware sees it.
 *
 * The driver tells the kernel about links through pgmap_fabric_set_links(). This
 * file is the other side: it decides whether an access really arrives, knowing
 * nothing of owners, windows or clusters. If the kernel gets a topology change
 * wrong, the two disagree, and the engine counts a violation.
 */
#include <linux/bits.h>
#include <linux/compiler.h>
#include <linux/export.h>
#include <linux/string.h>

#include <kunit/visibility.h>

#include "devmem_topo.h"

static void devmem_topo_set(u64 *links, unsigned int a, unsigned int b, bool up)
{
	u64 to_a = links[b] & ~BIT_ULL(a);
	u64 to_b = links[a] & ~BIT_ULL(b);

	if (up) {
		to_a |= BIT_ULL(a);
		to_b |= BIT_ULL(b);
	}

	/* Pairs with READ_ONCE() in devmem_topo_reach(): no torn masks. */
	WRITE_ONCE(links[a], to_b);
	WRITE_ONCE(links[b], to_a);
}

/**
 * devmem_topo_add() - a node appears, without links
 * @topo: the topology
 * @node: the node, not present
 */
void devmem_topo_add(struct devmem_topo *topo, unsigned int node)
{
	WRITE_ONCE(topo->present, topo->present | BIT_ULL(node));
}
EXPORT_SYMBOL_IF_KUNIT(devmem_topo_add);

/**
 * devmem_topo_remove() - a node and all of its links disappear
 * @topo: the topology
 * @node: the node
 */
void devmem_topo_remove(struct devmem_topo *topo, unsigned int node)
{
	unsigned int i;

	for (i = 0; i < DEVMEM_TOPO_NODES; i++) {
		if (i == node)
			continue;
		devmem_topo_set(topo->wired, node, i, false);
		devmem_topo_set(topo->told, node, i, false);
	}
	WRITE_ONCE(topo->present, topo->present & ~BIT_ULL(node));
}
EXPORT_SYMBOL_IF_KUNIT(devmem_topo_remove);

/**
 * devmem_topo_diff() - reduce changes to those that change something
 * @topo: the topology
 * @changes: what is asked for; a later one for the same pair overrides
 * @nr: number of @changes
 * @diff: (out) room for %DEVMEM_TOPO_PAIRS; every pair stands there once
 *
 * Return: Number of entries in @diff.
 */
unsigned int devmem_topo_diff(const struct devmem_topo *topo,
			      const struct devmem_topo_change *changes,
			      unsigned int nr, struct devmem_topo_change *diff)
{
	u64 want[DEVMEM_TOPO_NODES];
	unsigned int a, b, i, n = 0;

	memcpy(want, topo->told, sizeof(want));
	for (i = 0; i < nr; i++)
		devmem_topo_set(want, changes[i].a, changes[i].b, changes[i].up);

	for (a = 0; a < DEVMEM_TOPO_NODES; a++) {
		for (b = a + 1; b < DEVMEM_TOPO_NODES; b++) {
			if (!((want[a] ^ topo->told[a]) & BIT_ULL(b)))
				continue;
			diff[n].a = a;
			diff[n].b = b;
			diff[n].up = want[a] & BIT_ULL(b);
			n++;
		}
	}

	return n;
}
EXPORT_SYMBOL_IF_KUNIT(devmem_topo_diff);

/**
 * devmem_topo_wire() - the hardware of a link changes
 * @topo: the topology
 * @a: one end
 * @b: the other end
 * @up: the new state
 */
void devmem_topo_wire(struct devmem_topo *topo, unsigned int a, unsigned int b,
		      bool up)
{
	devmem_topo_set(topo->wired, a, b, up);
}
EXPORT_SYMBOL_IF_KUNIT(devmem_topo_wire);

/**
 * devmem_topo_tell() - the kernel has finished with a change of a link
 * @topo: the topology
 * @a: one end
 * @b: the other end
 * @up: the new state
 */
void devmem_topo_tell(struct devmem_topo *topo, unsigned int a, unsigned int b,
		      bool up)
{
	devmem_topo_set(topo->told, a, b, up);
}
EXPORT_SYMBOL_IF_KUNIT(devmem_topo_tell);

/**
 * devmem_topo_reach() - what becomes of an access?
 * @topo: the topology
 * @from: the device whose engine accesses
 * @to: the device whose memory is accessed
 *
 * Context: Any; not serialised with changes.
 * Return: One of &enum devmem_reach.
 */
enum devmem_reach devmem_topo_reach(const struct devmem_topo *topo,
				    unsigned int from, unsigned int to)
{
	if (!(READ_ONCE(topo->present) & BIT_ULL(to)))
		return DEVMEM_REACH_NONE;
	if (from == to || READ_ONCE(topo->wired[from]) & BIT_ULL(to))
		return DEVMEM_REACH_OK;
	if (READ_ONCE(topo->told[from]) & BIT_ULL(to))
		return DEVMEM_REACH_DEAD;
	return DEVMEM_REACH_NONE;
}
EXPORT_SYMBOL_IF_KUNIT(devmem_topo_reach);
