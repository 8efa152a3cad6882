// Options as a plan file's header stores them, and their digest.
#pragma once

#include "decision.hpp"
#include "msgpack_writer.hpp"
#include "sha256.hpp"

namespace fusco::planning {

// Writes the map of the options and the decision: what the plan id covers in addition to the shards.
void packOptions(const Spec &spec, const Decision &decision, MsgpackWriter &to);

// SHA-256 of the options: equal on ranks with equal options. `ranksPerHost` as from ranksPerHostOf.
Digest optionsDigest(const Spec &spec, uint32_t ranksPerHost);

// Names of values in a header.
const char *dtypeName(fusco_dtype dtype);
const char *balanceName(fusco_balance rule);

}  // namespace fusco::planning
