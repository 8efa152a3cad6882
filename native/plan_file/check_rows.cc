// Every row's place: entries fill their runs one by one, and the send order lists the entries in run order.

#include "checks.hpp"

namespace fusco::plan_file {

void checkEntries(const Plan &plan, uint32_t rank) {
  const Spec &spec = plan.spec;
  const planning::Placement &placement = spec.placement;
  const ShardView &shard = plan.shards[rank];
  const auto slots = shard.section<int32_t>(FUSCO_S_ENTRY_SLOT);
  const auto instances = shard.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
  const auto sendRow = shard.section(FUSCO_S_SEND_ROW);
  const auto sendRows = shard.section(FUSCO_S_SEND_ROWS);
  std::vector<uint32_t> next(sendRow.begin(), sendRow.end());
  std::vector<uint32_t> lastToken(spec.experts, UINT32_MAX);
  uint32_t masked = 0;
  uint32_t dropped = 0;
  for (uint32_t entry = 0; entry < slots.size(); entry++) {
    const int32_t slot = slots[entry];
    const uint32_t i = instances[entry];
    const auto bad = [&](fusco_status status, auto... text) {
      return defect(status, rank, place("entries", entry), text...);
    };
    if (i >= placement.instances) {
      if (i > placement.instances) {
        throw bad(FUSCO_E_SEGMENT_BOUNDS, "instance %u >= %u", i, placement.instances)
            .limited(i, placement.instances);
      }
      if (slot != FUSCO_SLOT_MASKED) throw bad(FUSCO_E_ENTRY, "a masked entry has slot %d", slot);
      masked++;
      continue;
    }
    const uint32_t token = entry / spec.topk;
    const uint32_t expert = placement.instanceExpert[i];
    if (lastToken[expert] == token) throw bad(FUSCO_E_ENTRY, "expert %u twice in token %u", expert, token);
    lastToken[expert] = token;
    const uint32_t owner = placement.instanceRank[i];
    const ShardView &receiver = plan.shards[owner];
    const uint32_t end = sendRow[i] + sendRows[i];
    if (slot == FUSCO_SLOT_DROPPED) {
      const uint32_t block = receiver.section(FUSCO_S_EXPERT_OFFSET)[i - placement.rankFirst[owner]];
      const bool isFull = spec.capacity > 0 && next[i] == end && end - block == spec.capacity;
      if (!isFull) throw bad(FUSCO_E_ENTRY, "dropped, though instance %u has room", i);
      dropped++;
      continue;
    }
    const uint32_t rows = receiver.word(FUSCO_W_RECV_ROWS);
    if (slot < 0 || static_cast<uint32_t>(slot) >= rows) {
      throw bad(FUSCO_E_SEGMENT_BOUNDS, slot < 0 ? "row %d < 0" : "row %d >= %u", slot, rows);
    }
    if (static_cast<uint32_t>(slot) != next[i] || static_cast<uint32_t>(slot) >= end) {
      throw bad(FUSCO_E_ENTRY, "row %d of instance %u, not %u of %u..%u", slot, i, next[i], sendRow[i],
                end - 1);
    }
    next[i]++;
  }
  checkWord(rank, "masked", shard.word(FUSCO_W_MASKED), masked);
  checkWord(rank, "dropped", shard.word(FUSCO_W_DROPPED), dropped);
  // kept + masked + dropped = entries and the runs hold `kept` rows, so every run is full here.
}

void checkSendOrder(const Plan &plan, uint32_t rank) {
  const ShardView &shard = plan.shards[rank];
  const auto sendEntry = shard.section(FUSCO_S_SEND_ENTRY);
  const auto slots = shard.section<int32_t>(FUSCO_S_ENTRY_SLOT);
  const auto instances = shard.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
  const auto sendRow = shard.section(FUSCO_S_SEND_ROW);
  const auto sendRows = shard.section(FUSCO_S_SEND_ROWS);
  const planning::DirectRange direct = planning::directRange(plan.spec, plan.spec.isFlat(), rank);
  size_t at = 0;
  for (uint32_t i = direct.first; i < direct.end; i++) {
    for (uint32_t row = 0; row < sendRows[i]; row++, at++) {
      // Direct rows and distributed ones are compared later, so the list may be too short.
      const uint32_t entry = at < sendEntry.size() ? sendEntry[at] : UINT32_MAX;
      if (entry >= slots.size()) {
        throw defect(FUSCO_E_SEGMENT_BOUNDS, rank, place("send", at), "entry %u >= %llu", entry,
                     uint64_t{slots.size()})
            .limited(entry, slots.size());
      }
      const uint32_t wanted = sendRow[i] + row;
      if (instances[entry] == i && static_cast<uint32_t>(slots[entry]) == wanted) continue;
      throw defect(FUSCO_E_STREAM, rank, place("send", at),
                   "entry %u goes to instance %u row %d, not to instance %u row %u", entry,
                   uint32_t{instances[entry]}, slots[entry], i, wanted);
    }
  }
}

}  // namespace fusco::plan_file
