// Layouts: the known ones, and the checks of any.
#pragma once

#include "fusco_audit.h"

namespace fusco::audit {

// Null behind the last one.
const char *layoutName(uint32_t index);

// Throws E_OPTION.
fusco_audit_layout findLayout(const char *name);

// Throws E_OPTION for fields that are out of range or contradict each other.
void checkLayout(const fusco_audit_layout &layout);

}  // namespace fusco::audit
