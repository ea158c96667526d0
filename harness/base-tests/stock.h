/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lets mm/tests/device_private_kunit.c compile on a kernel without the series:
 * -include this. zone_device_folio_init() grants every page there, and nothing
 * can close a pagemap.
 */
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>

static inline int stock_zone_device_folio_init(struct folio *folio,
					       struct dev_pagemap *pgmap,
					       unsigned int order)
{
	zone_device_folio_init(folio, pgmap, order);
	return 0;
}
#define zone_device_folio_init stock_zone_device_folio_init

static inline void dev_pagemap_close(struct dev_pagemap *pgmap) { }
static inline void dev_pagemap_reopen(struct dev_pagemap *pgmap) { }
static inline bool dev_pagemap_wait_idle(struct dev_pagemap *pgmap,
					 unsigned long timeout)
{
	return false;
}
