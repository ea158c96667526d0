/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_HMM_OWNER_H
#define _MM_HMM_OWNER_H

#include <linux/pgmap_owner.h>

#if IS_ENABLED(CONFIG_KUNIT)
void pgmap_walk_race(void);
struct folio *pgmap_folio_alloc(unsigned int order);
struct pgmap_owner *pgmap_owner_alloc(gfp_t gfp);
struct pgmap_window *pgmap_window_register(struct pgmap_region *region,
					   struct pgmap_owner *owner);
#endif

#endif /* _MM_HMM_OWNER_H */
