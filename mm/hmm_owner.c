// SPDX-License-Identifier: GPL-2.0
/*
 * Shared owners for device memory.
 *
 * Devices on one interconnect form a cluster and share one owner, so that
 * hmm_range_fault() lets them use each other's ZONE_DEVICE pages in place.
 */
#include <kunit/visibility.h>
#include <linux/atomic.h>
#include <linux/export.h>

#include "pgmap_internal.h"

/**
 * DOC: Overview
 *
 * &struct dev_pagemap.owner answers one question: can the asking device reach this
 * memory? The answer changes when a link of the interconnect goes up or down and when a
 * device comes or goes, but the owner of a live dev_pagemap never does. The dev_pagemap
 * is torn down and registered again.
 *
 * A *peer* is a device that takes part: it uses memory, offers memory, or both. A *fabric*
 * holds the peers of one driver family and the links between them. The peers of a fabric
 * are divided into *clusters*: any two peers of a cluster are linked. The members of a
 * cluster have the same *owner*.
 *
 * A peer's memory consists of *slots*, one behind each page, and is registered in
 * *regions*. Each region has one current *window*: a dev_pagemap under the peer's owner,
 * where new pages come from. Private pfns are not physical addresses, so a second window
 * can cover the same slots under another owner. To *rehome* a page means to make page
 * tables refer to its slot's page in another window. No byte is copied.
 *
 * What is safe does not depend on where pages are. It follows from three rules:
 *
 * 1. A peer maps a page only if the page's window has the peer's owner, or if both peers
 *    are of one cluster, or if the page is its own; see pgmap_walk_reaches().
 * 2. A peer that loses access to another one gets a new owner if it still could find
 *    pages of that one under its old owner. Its driver drops the foreign mappings, and
 *    walks under way are caught by pgmap_walk_retry().
 * 3. Owners are never used again. New pages appear only under the present owner.
 *
 * So a change of the topology never waits for a page, and does not fail because of one.
 * Rehoming serves two ends. A planned change rehomes the pages of the peers that leave a
 * cluster, so that the others need no new owner. And pages under an outdated owner cost
 * each walk a look at their peer; rehoming restores the plain comparison.
 *
 * A planned change goes like this:
 *
 * 1. divide the clusters whose links go down; the part with the most pages in use keeps
 *    the owner, and the members of the others are the *movers*;
 * 2. without a lock that others need: rehome the pages of the movers to windows under
 *    their next owner, until the caller's time is up;
 * 3. publish the owners of the movers, and have their drivers drop foreign mappings;
 * 4. if pages of movers are *left over* in windows under the old owner, or if the memory
 *    is coherent: give those that stay a new owner too, and do the same for them;
 * 5. merge clusters all of whose peers are linked now; nothing has to move for that;
 * 6. a work item moves what is left over, whenever that can be moved.
 *
 * A forced change leaves out the second step: links that are dead are not used.
 *
 * *Coherent memory* is memory that the CPU can access. It is never rehomed, as its pfns
 * are physical addresses. See mm/pgmap_coherent.c.
 */

/**
 * DOC: Why no device maps what it cannot reach
 *
 * *Pages that move* are covered by mmu notifiers. Rehoming and evacuation unmap them
 * through the reverse map, in every mm, which tells every mapper.
 *
 * *A peer that loses access to pages that stay* is not covered. P leaves {A, P}. The pages
 * of A do not move, so no notifier fires for them, and a hmm_range_fault() of P that is
 * under way matches them by the old owner and passes mmu_interval_read_retry(). So each
 * peer has a sequence number, which is checked together with that of the notifier; see
 * pgmap_walk_retry().
 *
 * *Pages of a peer that has left the cluster*, and that are left over: the peers that stay could
 * find them under the owner that they had in common. They have got another one by then.
 *
 * *New pages* come from the current window only. A window becomes current under the lock
 * under which clusters change, if its owner is that of the cluster.
 *
 * *Walkers of core mm* look at a page's dev_pagemap under RCU or a page table lock. A window
 * is given away or unregistered a grace period after its last page was freed, when no page
 * table has referred to it any more.
 */

/**
 * DOC: What can be delayed, and by whom
 *
 * A user can keep a page from being moved, by a pin or another reference, or by keeping it
 * locked. That delays the removal of the device whose page it is, up to the timeout of the
 * caller, and nothing else:
 *
 * - A change of links moves on when its time is up. The page is left over, and counted
 *   in &pgmap_stats.pages_left. It works as before for the peers that can reach it.
 * - A device that joins waits for no page.
 * - pgmap_peer_leave() without force fails, and the device works as before. With force, or
 *   if the peer is lost, page table entries are replaced by poison markers, which no
 *   reference and no pin prevents; only a page that stays locked does. The memmap cannot go
 *   before the last reference, so the call returns -EBUSY, and the driver repeats it.
 *
 * A message in the log and the trace event pgmap_stuck name the page.
 */

/**
 * pgmap_owner_new() - an owner that nothing has had before
 *
 * An odd number, so that it differs from each address that another driver may use as an
 * owner. It takes more than a thousand years to use up the numbers.
 *
 * Context: Any.
 * Return: The owner.
 */
VISIBLE_IF_KUNIT struct pgmap_owner *pgmap_owner_new(void)
{
	static atomic_long_t last_id;

	return (struct pgmap_owner *)(2 * atomic_long_inc_return(&last_id) + 1);
}
EXPORT_SYMBOL_IF_KUNIT(pgmap_owner_new);

/**
 * pgmap_peers_share() - are two peers of one cluster?
 * @a: a peer
 * @b: a peer
 *
 * Context: Any. The answer can be stale when it is used; for pages that
 *	    hmm_range_fault() found, ask pgmap_walk_retry().
 * Return: true if the peers can use each other's memory in place.
 */
bool pgmap_peers_share(struct pgmap_peer *a, struct pgmap_peer *b)
{
	struct pgmap_owner *owner = READ_ONCE(a->owner);

	return owner && owner == READ_ONCE(b->owner);
}
EXPORT_SYMBOL_GPL(pgmap_peers_share);

/**
 * pgmap_peer_owner_id() - a number for a peer's owner, to show to people
 * @peer: a peer
 *
 * Context: Any. Can be stale when it is used.
 * Return: A number that no other owner has had since boot; 0 if the peer is not
 *	   a member of a fabric.
 */
u64 pgmap_peer_owner_id(struct pgmap_peer *peer)
{
	return (unsigned long)READ_ONCE(peer->owner) >> 1;
}
EXPORT_SYMBOL_GPL(pgmap_peer_owner_id);
