// Times variants of the one-pass kernels in turn, and compares the bytes that
// they write with those of the library's kernels:
//
//   variants threads|processes GPUS SECONDS
//
// No candidate starts after SECONDS.
//
// All GPUs start a call together; a time is that of the slowest GPU, a median.
// `chained` is the time per call of three consecutive calls, and for 128 tokens
// of a captured graph of ten. A line per candidate; the fastest of each case
// last.
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

cuda::OnePassGrid gridOf(const Shape &shape) {
  return {shape.blocks, shape.startsEarly};
}

using Clock = std::chrono::steady_clock;

double medianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// What one rank does.
class Runner {
public:
  // `sequence`: value of the last hold() of this rank; it only grows.
  Runner(Meeting &meeting, Rank &rank, uint32_t self,
         volatile uint32_t *released, uint32_t &sequence, Clock::time_point end)
      : meeting_(meeting), rank_(rank), self_(self), released_(released),
        sequence_(sequence), end_(end) {}

  // Returns whether all candidates wrote what the first one did.
  bool run(const char *title, const std::vector<Candidate> &candidates,
           bool inGraph) {
    bool isGood = true;
    uint64_t expected = 0;
    double best = 0;
    std::string fastest;
    for (size_t i = 0; i < candidates.size(); i++) {
      const Candidate &candidate = candidates[i];
      rank_.poison();
      if (self_ == 0)
        meeting_.isOver = Clock::now() > end_;
      meeting_.barrier();
      if (meeting_.isOver) {
        if (self_ == 0)
          std::printf("left out: %s, from %s on\n", title,
                      candidate.name.c_str());
        break;
      }
      must(candidate.enqueue(rank_.stream()), candidate.name.c_str());
      const uint64_t hash = rank_.hash();
      if (i == 0)
        expected = hash;
      meeting_.hash[self_] = hash == expected ? 1 : 0;
      meeting_.barrier();
      bool isSame = true;
      for (uint32_t rank = 0; rank < meeting_.ranks; rank++)
        isSame = isSame && meeting_.hash[rank] == 1;
      isGood = isGood && isSame;
      const double one = time(candidate, 1, false);
      const double chained =
          time(candidate, inGraph ? graphCalls : chain, inGraph);
      if (self_ != 0)
        continue;
      const double figure = inGraph ? chained : one;
      char line[256];
      std::snprintf(line, sizeof line,
                    "%-24s | %-44s | %3u SMs, %2u tokens a chunk, lag %4u, %3u "
                    "senders%s | %8.4f | %8.4f | %s",
                    title, candidate.name.c_str(), candidate.shape.blocks,
                    candidate.shape.chunkTokens, candidate.shape.lagTokens,
                    candidate.shape.senders,
                    candidate.shape.startsEarly ? ", early" : "       ", one,
                    chained, isSame ? "same" : "DIFFERENT BYTES");
      std::printf("%s\n", line);
      std::fflush(stdout);
      if (isSame && (fastest.empty() || figure < best)) {
        best = figure;
        fastest = line;
      }
    }
    if (self_ == 0)
      std::printf("fastest: %s\n", fastest.c_str());
    std::fflush(stdout);
    return isGood;
  }

private:
  double time(const Candidate &candidate, uint32_t calls, bool inGraph) {
    cudaGraphExec_t graph = nullptr;
    if (inGraph) {
      cudaGraph_t captured = nullptr;
      must(cudaStreamBeginCapture(rank_.stream(),
                                  cudaStreamCaptureModeThreadLocal),
           "capturing");
      for (uint32_t i = 0; i < calls; i++)
        must(candidate.enqueue(rank_.stream()), "capturing");
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
        for (uint32_t i = 0; i < calls; i++)
          must(candidate.enqueue(rank_.stream()), "launching");
      }
      must(cudaEventRecord(last_, rank_.stream()), "recording");
      meeting_.barrier();
      if (self_ == 0)
        meeting_.released = value;
      must(cudaStreamSynchronize(rank_.stream()), "waiting");
      float ms = 0;
      must(cudaEventElapsedTime(&ms, first_, last_), "timing");
      meeting_.ms[self_] = ms / calls;
      meeting_.barrier();
      if (repeat >= 0)
        times.push_back(
            *std::max_element(meeting_.ms, meeting_.ms + meeting_.ranks));
      meeting_.barrier();
    }
    if (graph != nullptr)
      cudaGraphExecDestroy(graph);
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

std::vector<Candidate> moves(const Rank &rank, const std::vector<Shape> &shapes,
                             bool isFp8) {
  std::vector<Candidate> candidates;
  for (const Shape &shape : shapes) {
    candidates.push_back(
        {"present", shape,
         [shape, params = rank.move(shape, isFp8)](cudaStream_t stream) {
           return cuda::launchMove(params, gridOf(shape), stream);
         }});
  }
  return candidates;
}

std::vector<Candidate> sums(const Rank &rank,
                            const std::vector<Shape> &shapes) {
  std::vector<Candidate> candidates;
  for (const Shape &shape : shapes) {
    for (const SumVariant &variant : sumVariants()) {
      candidates.push_back({variant.name, shape,
                            [variant, shape, params = rank.sum(variant, shape)](
                                cudaStream_t stream) {
                              return variant.launch(params, gridOf(shape),
                                                    stream);
                            }});
    }
  }
  return candidates;
}

std::vector<Candidate> gradients(const Rank &rank,
                                 const std::vector<Shape> &shapes) {
  std::vector<Candidate> candidates;
  for (const Shape &shape : shapes) {
    for (const GradientVariant &variant : gradientVariants()) {
      candidates.push_back({variant.name, shape,
                            [variant, shape, params = rank.gradient(shape)](
                                cudaStream_t stream) {
                              return variant.launch(params, gridOf(shape),
                                                    stream);
                            }});
    }
  }
  return candidates;
}

// The library's shapes are the first of their case.
bool runSmall(Runner &runner, const Rank &rank, uint32_t ranks) {
  std::vector<Shape> combines = {
      {132, 1, 0, 79, true}, {132, 1, 0, 79}, {132, 1, 0, 132, true}};
  if (ranks == 2)
    std::swap(combines[0], combines[2]);
  bool isGood = runner.run("combine 128", sums(rank, combines), true);
  std::vector<Shape> dispatches = {{132, 2, 0, 0, true},
                                   {132, 1, 0, 0, true},
                                   {132, 2, 0, 0},
                                   {132, 3, 0, 0, true},
                                   {132, 4, 0, 0, true}};
  if (ranks == 2)
    std::swap(dispatches[0], dispatches[1]);
  return runner.run("dispatch 128", moves(rank, dispatches, false), true) &&
         isGood;
}

bool runMedium(Runner &runner, const Rank &rank, uint32_t ranks) {
  const std::vector<Shape> few = {
      {24, 16, 0, 16}, {24, 16, 0, 18}, {24, 16, 0, 14}, {24, 8, 0, 16}};
  bool isGood = runner.run("combine 4096, 24 SMs", sums(rank, few), false);
  const std::vector<Shape> wide = {{132, 1, 768, 0},
                                   {132, 1, 512, 0},
                                   {132, 1, 1024, 0},
                                   {132, 1, 1536, 0},
                                   {132, 1, 384, 0}};
  isGood = runner.run("combine gradient 4096", gradients(rank, wide), false) &&
           isGood;
  std::vector<Shape> combines = {
      {64, 4, 0, 38}, {132, 2, 0, 79}, {96, 4, 0, 57}, {48, 8, 0, 32},
      {48, 4, 0, 28}, {32, 16, 0, 22}, {32, 8, 0, 20}};
  if (ranks == 2)
    std::swap(combines[0], combines[1]);
  isGood = runner.run("combine 4096", sums(rank, combines), false) && isGood;
  std::vector<Shape> dispatches = {
      {48, 4, 256, 0}, {64, 4, 256, 0}, {40, 4, 256, 0},  {40, 8, 256, 0},
      {32, 8, 256, 0}, {24, 8, 512, 0}, {24, 8, 768, 0},  {24, 8, 256, 0},
      {48, 4, 512, 0}, {64, 4, 512, 0}, {132, 2, 256, 0}, {132, 2, 512, 0}};
  if (ranks == 2)
    std::swap(dispatches[0], dispatches[1]);
  isGood = runner.run("dispatch 4096", moves(rank, dispatches, false), false) &&
           isGood;
  return runner.run("fp8 dispatch 4096",
                    moves(rank,
                          {{64, 4, 256, 0},
                           {56, 4, 256, 0},
                           {48, 4, 256, 0},
                           {132, 2, 256, 0}},
                          true),
                    false) &&
         isGood;
}

bool runLarge(Runner &runner, const Rank &rank, uint32_t ranks) {
  std::vector<Shape> combines = {{64, 4, 0, 38}, {132, 2, 0, 79}};
  std::vector<Shape> dispatches = {{48, 4, 256, 0}, {64, 4, 256, 0}};
  if (ranks == 2) {
    std::swap(combines[0], combines[1]);
    std::swap(dispatches[0], dispatches[1]);
  }
  const bool isGood = runner.run("combine 32768", sums(rank, combines), false);
  return runner.run("dispatch 32768", moves(rank, dispatches, false), false) &&
         isGood;
}

bool runAll(uint32_t ranks, bool isProcesses, Clock::time_point end) {
  using Run = bool (*)(Runner &, const Rank &, uint32_t);
  const std::pair<uint32_t, Run> runs[] = {
      {128, runSmall}, {4096, runMedium}, {32768, runLarge}};
  std::vector<Workload> workloads;
  for (const auto &[tokens, run] : runs)
    workloads.emplace_back(ranks, tokens);
  std::atomic<bool> isGood{true};
  const bool hasEnded =
      runRanks(ranks, isProcesses, [&](Meeting &meeting, uint32_t self) {
        must(cudaSetDevice(static_cast<int>(self)), "choosing a GPU");
        if (isProcesses || self == 0) {
          must(cudaHostRegister(&meeting, sizeof meeting,
                                cudaHostRegisterPortable |
                                    cudaHostRegisterMapped),
               "sharing host memory with a GPU");
        }
        meeting.barrier();
        volatile uint32_t *released = nullptr;
        must(cudaHostGetDevicePointer(
                 reinterpret_cast<void **>(const_cast<uint32_t **>(&released)),
                 const_cast<uint32_t *>(&meeting.released), 0),
             "sharing host memory with a GPU");
        uint32_t sequence = 0;
        for (size_t i = 0; i < workloads.size(); i++) {
          Rank rank(meeting, workloads[i], self);
          Runner runner(meeting, rank, self, released, sequence, end);
          if (!runs[i].second(runner, rank, ranks))
            isGood = false;
        }
        if (isProcesses && !isGood)
          std::_Exit(1);
      });
  return hasEnded && isGood;
}

} // namespace
} // namespace fusco::variants

int main(int count, char **arguments) {
  const auto start = fusco::variants::Clock::now();
  const bool isProcesses =
      count == 4 && std::strcmp(arguments[1], "processes") == 0;
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
  return fusco::variants::runAll(static_cast<uint32_t>(gpus), isProcesses, end)
             ? 0
             : 1;
}
