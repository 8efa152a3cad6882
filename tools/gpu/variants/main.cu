// Times variants of the one-pass kernels in turn, and compares the bytes that they write with those of the
// library's kernels:
//
//   variants threads|processes GPUS SECONDS
//
// No candidate starts after SECONDS.
//
// All GPUs start a call together; a time is that of the slowest GPU, a median. `chained` is the time per call
// of three consecutive calls, and for 128 tokens of a captured graph of ten. A line per candidate; the
// fastest of each case last.
//
// Exit 1: a variant wrote other bytes, or something failed.
#include <chrono>
#include <cstring>
#include <functional>
#include <string>

#include "rank.hpp"

namespace fusco::variants {
namespace {

constexpr int repeats = 7;
// Consecutive calls, and calls of a captured graph.
constexpr uint32_t chain = 3;
constexpr uint32_t graphCalls = 10;

struct Candidate {
  std::string name;
  Shape shape;
  std::function<cudaError_t(cudaStream_t)> enqueue;
};

struct Event {
  cudaEvent_t event;
  Event() { must(cudaEventCreate(&event), "creating an event"); }
  ~Event() { cudaEventDestroy(event); }
  operator cudaEvent_t() const { return event; }
};

using Clock = std::chrono::steady_clock;

double medianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// What one rank does.
class Runner {
 public:
  // `sequence`: value of the last hold() of this rank; it only grows.
  Runner(Meeting &meeting, Rank &rank, uint32_t self, volatile uint32_t *released, uint32_t &sequence,
         Clock::time_point end)
      : meeting_(meeting), rank_(rank), self_(self), released_(released), sequence_(sequence), end_(end) {}

  // Returns whether all candidates wrote what the first one did.
  bool run(const char *title, const std::vector<Candidate> &candidates, bool inGraph) {
    bool isGood = true;
    uint64_t expected = 0;
    double best = 0;
    std::string fastest;
    for (size_t i = 0; i < candidates.size(); i++) {
      const Candidate &candidate = candidates[i];
      rank_.poison();
      if (self_ == 0) meeting_.isOver = Clock::now() > end_;
      meeting_.barrier();
      if (meeting_.isOver) {
        if (self_ == 0) std::printf("left out: %s, from %s on\n", title, candidate.name.c_str());
        break;
      }
      must(candidate.enqueue(rank_.stream()), candidate.name.c_str());
      const uint64_t hash = rank_.hash();
      if (i == 0) expected = hash;
      meeting_.hash[self_] = hash == expected ? 1 : 0;
      meeting_.barrier();
      bool isSame = true;
      for (uint32_t rank = 0; rank < meeting_.ranks; rank++) isSame = isSame && meeting_.hash[rank] == 1;
      isGood = isGood && isSame;
      const double one = time(candidate, 1, false);
      const double chained = time(candidate, inGraph ? graphCalls : chain, inGraph);
      if (self_ != 0) continue;
      const double figure = inGraph ? chained : one;
      char line[256];
      std::snprintf(line, sizeof line,
                    "%-24s | %-52s | %3u SMs, %2u tokens a chunk, lag %4u, %3u "
                    "senders | %8.4f | %8.4f | %s",
                    title, candidate.name.c_str(), candidate.shape.blocks, candidate.shape.chunkTokens,
                    candidate.shape.lagTokens, candidate.shape.senders, one, chained,
                    isSame ? "same" : "DIFFERENT BYTES");
      std::printf("%s\n", line);
      std::fflush(stdout);
      if (isSame && (fastest.empty() || figure < best)) {
        best = figure;
        fastest = line;
      }
    }
    if (self_ == 0) std::printf("fastest: %s\n", fastest.c_str());
    std::fflush(stdout);
    return isGood;
  }

 private:
  double time(const Candidate &candidate, uint32_t calls, bool inGraph) {
    cudaGraphExec_t graph = nullptr;
    if (inGraph) {
      cudaGraph_t captured = nullptr;
      must(cudaStreamBeginCapture(rank_.stream(), cudaStreamCaptureModeThreadLocal), "capturing");
      for (uint32_t i = 0; i < calls; i++) must(candidate.enqueue(rank_.stream()), "capturing");
      must(cudaStreamEndCapture(rank_.stream(), &captured), "capturing");
      must(cudaGraphInstantiate(&graph, captured, 0), "capturing");
      cudaGraphDestroy(captured);
      must(cudaGraphUpload(graph, rank_.stream()), "capturing");
      must(cudaStreamSynchronize(rank_.stream()), "capturing");
    }
    meeting_.barrier();
    std::vector<double> times;
    for (int repeat = -2; repeat < repeats; repeat++) {
      const uint32_t value = ++sequence_;
      hold(released_, value, rank_.stream());
      must(cudaEventRecord(first_, rank_.stream()), "recording");
      if (inGraph) {
        must(cudaGraphLaunch(graph, rank_.stream()), "launching a graph");
      } else {
        for (uint32_t i = 0; i < calls; i++) must(candidate.enqueue(rank_.stream()), "launching");
      }
      must(cudaEventRecord(last_, rank_.stream()), "recording");
      meeting_.barrier();
      if (self_ == 0) meeting_.released = value;
      must(cudaStreamSynchronize(rank_.stream()), "waiting");
      float ms = 0;
      must(cudaEventElapsedTime(&ms, first_, last_), "timing");
      meeting_.ms[self_] = ms / calls;
      meeting_.barrier();
      if (repeat >= 0) times.push_back(*std::max_element(meeting_.ms, meeting_.ms + meeting_.ranks));
      meeting_.barrier();
    }
    if (graph != nullptr) cudaGraphExecDestroy(graph);
    return medianOf(times);
  }

  Meeting &meeting_;
  Rank &rank_;
  const uint32_t self_;
  volatile uint32_t *released_;
  uint32_t &sequence_;
  const Clock::time_point end_;
  Event first_;
  Event last_;
};

template <class Variant>
std::vector<Variant> joined(std::vector<Variant> all, const std::vector<Variant> &more) {
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

std::vector<Candidate> moves(const Rank &rank, const std::vector<Shape> &shapes, bool isFp8,
                             bool inParameters) {
  std::vector<Candidate> candidates;
  for (const Shape &shape : shapes) {
    for (const MoveVariant &variant : joined(moveVariants(), moveVariantsOutlined())) {
      if (variant.joinsPayloads && !isFp8) continue;
      candidates.push_back(
          {std::string(variant.name) + (inParameters ? ", addresses in parameters" : ""), shape,
           [variant, shape, params = rank.move(variant, shape, isFp8, inParameters)](cudaStream_t stream) {
             return variant.launch(params, shape.blocks, stream);
           }});
    }
  }
  return candidates;
}

std::vector<Candidate> sums(const Rank &rank, const std::vector<Shape> &shapes) {
  std::vector<Candidate> candidates;
  for (const Shape &shape : shapes) {
    for (const SumVariant &variant : joined(sumVariants(), sumVariantsOutlined())) {
      candidates.push_back(
          {variant.name, shape, [variant, shape, params = rank.sum(variant, shape)](cudaStream_t stream) {
             return variant.launch(params, shape.blocks, stream);
           }});
    }
  }
  return candidates;
}

std::vector<Candidate> gradients(const Rank &rank, const std::vector<Shape> &shapes) {
  std::vector<Candidate> candidates;
  for (const Shape &shape : shapes) {
    for (const GradientVariant &variant : joined(gradientVariants(), gradientVariantsOutlined())) {
      candidates.push_back(
          {variant.name, shape, [variant, shape, params = rank.gradient(shape)](cudaStream_t stream) {
             return variant.launch(params, shape.blocks, stream);
           }});
    }
  }
  return candidates;
}

// Shapes of a dispatch; the first is the library's default.
std::vector<Shape> moveShapes(uint32_t ranks) {
  if (ranks > 2)
    return {{32, 8, 256, 0}, {32, 16, 256, 0}, {48, 4, 256, 0},
            {64, 4, 256, 0}, {64, 8, 256, 0},  {132, 2, 256, 0}};
  return {{64, 4, 256, 0}, {64, 8, 256, 0}, {32, 8, 256, 0}, {96, 4, 256, 0}, {132, 2, 256, 0}};
}

bool runTokens(Runner &runner, const Rank &rank, const Workload &workload, bool isProcesses) {
  const uint32_t ranks = workload.ranks;
  bool isGood = true;
  if (workload.tokens == 128) {
    isGood = runner.run("dispatch 128",
                        moves(rank, {{132, 1, 0, 0}, {132, 2, 0, 0}, {64, 1, 0, 0}}, false, false), true);
    return runner.run("combine 128",
                      sums(rank, {{132, 1, 0, 132}, {132, 2, 0, 132}, {64, 1, 0, 64}, {132, 1, 0, 80}}),
                      true) &&
           isGood;
  }
  if (workload.tokens == 32768) {
    const std::vector<Shape> shapes = {
        moveShapes(ranks)[0], {32, 8, 1024, 0}, {48, 4, 256, 0}, {64, 4, 256, 0}};
    isGood = runner.run("dispatch 32768", moves(rank, shapes, false, false), false);
    if (isProcesses)
      isGood = runner.run("dispatch 32768", moves(rank, {shapes[0]}, false, true), false) && isGood;
    return runner.run("combine 32768",
                      sums(rank, {{ranks > 2 ? 96u : 132u, ranks > 2 ? 4u : 2u, 0, ranks > 2 ? 57u : 79u}}),
                      false) &&
           isGood;
  }
  isGood = runner.run("fp8 dispatch 4096", moves(rank, moveShapes(ranks), true, false), false);
  isGood = runner.run("dispatch 4096", moves(rank, moveShapes(ranks), false, false), false) && isGood;
  std::vector<Shape> few = {{24, 16, 0, 14}};
  for (const uint32_t chunk : {4, 8, 16, 32}) {
    for (const uint32_t senders : {10, 14, 19, 24}) {
      if (chunk != 16 || senders != 14) few.push_back({24, chunk, 0, senders});
    }
  }
  isGood = runner.run("combine 4096, 24 SMs", sums(rank, few), false) && isGood;
  std::vector<Shape> many = {
      {96, 4, 0, 57}, {132, 2, 0, 79}, {64, 4, 0, 38}, {48, 4, 0, 28}, {32, 16, 0, 19}};
  if (ranks == 2) std::swap(many[0], many[1]);
  isGood = runner.run("combine 4096", sums(rank, many), false) && isGood;
  const std::vector<Shape> wide = {{132, 2, 256, 0}, {132, 2, 512, 0}, {132, 4, 256, 0}, {132, 4, 512, 0},
                                   {132, 8, 256, 0}, {132, 8, 512, 0}, {96, 4, 256, 0},  {132, 1, 256, 0}};
  return runner.run("combine gradient 4096", gradients(rank, wide), false) && isGood;
}

bool runAll(uint32_t ranks, bool isProcesses, Clock::time_point end) {
  std::vector<Workload> workloads;
  for (const uint32_t tokens : {4096, 128, 32768}) workloads.emplace_back(ranks, tokens);
  std::atomic<bool> isGood{true};
  const bool hasEnded = runRanks(ranks, isProcesses, [&](Meeting &meeting, uint32_t self) {
    must(cudaSetDevice(static_cast<int>(self)), "choosing a GPU");
    if (isProcesses || self == 0) {
      must(cudaHostRegister(&meeting, sizeof meeting, cudaHostRegisterPortable | cudaHostRegisterMapped),
           "sharing host memory with a GPU");
    }
    meeting.barrier();
    volatile uint32_t *released = nullptr;
    must(cudaHostGetDevicePointer(reinterpret_cast<void **>(const_cast<uint32_t **>(&released)),
                                  const_cast<uint32_t *>(&meeting.released), 0),
         "sharing host memory with a GPU");
    uint32_t sequence = 0;
    for (const Workload &workload : workloads) {
      Rank rank(meeting, workload, self);
      Runner runner(meeting, rank, self, released, sequence, end);
      if (!runTokens(runner, rank, workload, isProcesses)) isGood = false;
    }
    if (isProcesses && !isGood) std::_Exit(1);
  });
  return hasEnded && isGood;
}

}  // namespace
}  // namespace fusco::variants

int main(int count, char **arguments) {
  const auto start = fusco::variants::Clock::now();
  const bool isProcesses = count == 4 && std::strcmp(arguments[1], "processes") == 0;
  const int gpus = count == 4 ? std::atoi(arguments[2]) : 0;
  if (gpus < 2 || gpus > static_cast<int>(fusco::variants::mostRanks)) {
    std::fprintf(stderr, "variants threads|processes GPUS SECONDS\n");
    return 2;
  }
  std::printf("%s, %d GPUs\n", arguments[1], gpus);
  std::printf("case | variant | shape | ms | ms, chained | bytes\n");
  // Processes would print it again.
  std::fflush(stdout);
  const auto end = start + std::chrono::seconds(std::atoi(arguments[3]));
  return fusco::variants::runAll(static_cast<uint32_t>(gpus), isProcesses, end) ? 0 : 1;
}
