// One rank's expert ids, of any integer type.
#pragma once

#include "failure.hpp"
#include "fusco_planning.h"
#include "route_pass.hpp"

namespace fusco::planning {

// Bytes of an id. Throws E_ROUTING_DTYPE.
inline uint32_t idBytes(fusco_id_dtype dtype, uint32_t rank) {
  switch (dtype) {
    case FUSCO_ID_I8:
    case FUSCO_ID_U8:
      return 1;
    case FUSCO_ID_I16:
    case FUSCO_ID_U16:
      return 2;
    case FUSCO_ID_I32:
    case FUSCO_ID_U32:
      return 4;
    case FUSCO_ID_I64:
    case FUSCO_ID_U64:
      return 8;
  }
  throw Failure(FUSCO_E_ROUTING_DTYPE, "rank %u: id dtype %d is not one of fusco_id_dtype", rank, dtype)
      .atRank(rank);
}

// Calls `use` with a pointer to ids of their type, which idBytes knows.
template <class Use>
FUSCO_ON_BOTH void withIds(fusco_id_dtype dtype, const void *data, Use use) {
  switch (dtype) {
    case FUSCO_ID_I8:
      return use(static_cast<const int8_t *>(data));
    case FUSCO_ID_U8:
      return use(static_cast<const uint8_t *>(data));
    case FUSCO_ID_I16:
      return use(static_cast<const int16_t *>(data));
    case FUSCO_ID_U16:
      return use(static_cast<const uint16_t *>(data));
    case FUSCO_ID_I32:
      return use(static_cast<const int32_t *>(data));
    case FUSCO_ID_U32:
      return use(static_cast<const uint32_t *>(data));
    case FUSCO_ID_I64:
      return use(static_cast<const int64_t *>(data));
    case FUSCO_ID_U64:
      return use(static_cast<const uint64_t *>(data));
  }
}

// `ids` has the form of this version. Throws E_ROUTING_SHAPE, E_ROUTING_DTYPE, E_LIMIT, E_OPTION, E_BUFFER.
void checkIds(const fusco_ids &ids, uint32_t rank, uint32_t topk);

// The error of a bad id: `shown` is the id as text.
Failure badId(BadId kind, uint32_t rank, uint64_t entry, uint32_t topk, uint32_t experts, const char *shown);

}  // namespace fusco::planning
