// Plan files of any bytes, as they are and with all digests made right: refused, or a plan that the executor
// takes as well.

#include "input.hpp"
#include "plan_file.hpp"

namespace {

using namespace fusco;

// A plan file that the reader accepts can be uploaded.
void read(const void *data, size_t bytes) {
  fusco_plan_file *file = nullptr;
  fusco_error error{};
  if (!fuzz::accepted(fusco_plan_file_parse(data, bytes, &file, &error), error)) return;
  auto info = fusco_sized<fusco_plan_file_info>();
  FUZZ_CHECK(fusco_plan_file_describe(file, &info, &error) == FUSCO_OK);
  auto desc = fusco_sized<fusco_plan_desc>();
  desc.ranks = info.options->ranks;
  desc.ranks_per_node = info.options->ranks_per_node;
  desc.strategy = info.options->strategy;
  desc.partial = info.options->partial;
  desc.sum = info.options->sum;
  desc.shards = info.shards;
  fusco_plan *plan = nullptr;
  FUZZ_CHECK(fusco_plan_create(fuzz::context(), &desc, &plan, &error) == FUSCO_OK);
  fusco_plan_destroy(plan);
  fusco_plan_file_close(file);
}

// The same plan with new digests; empty where there is nothing that could be sealed.
std::vector<uint8_t> sealed(const uint8_t *data, size_t bytes) {
  try {
    plan_file::Cursor cursor(data, bytes);
    plan_file::Header header = plan_file::readHeader(cursor);
    const std::vector<fusco_buffer> shards = plan_file::readShards(cursor, header);
    return plan_file::encodePlan(header, shards, "");
  } catch (const Failure &) {
    return {};
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  read(data, size);
  const std::vector<uint8_t> again = sealed(data, size);
  read(again.data(), again.size());
  return 0;
}
