#include "rank.hpp"

namespace fusco::variants {

using cuda::CombineGradientParams;
using cuda::MoveParams;
using cuda::OnePassCommon;
using cuda::Payload;
using cuda::SumParams;

namespace {

// bf16 numbers of both signs between 1/128 and 2.
__global__ void fill(uint32_t *words, uint64_t count, uint64_t seed) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += gridDim.x * uint64_t{blockDim.x}) {
    const auto bits = static_cast<uint32_t>(mixed(seed + i));
    words[i] = (bits & 0x807f807fu) | (120 + ((bits >> 8) & 7)) << 7 |
               (120 + ((bits >> 24) & 7)) << 23;
  }
}

__global__ void fillFloats(float *values, uint64_t count, uint64_t seed) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += gridDim.x * uint64_t{blockDim.x}) {
    values[i] = static_cast<float>(mixed(seed + i) % 1000) / 1000.0f;
  }
}

__global__ void addHash(const uint64_t *words, uint64_t count,
                        unsigned long long *hash) {
  uint64_t sum = 0;
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += gridDim.x * uint64_t{blockDim.x}) {
    sum += mixed(words[i] ^ (i * 0x9e3779b97f4a7c15u));
  }
  atomicAdd(hash, static_cast<unsigned long long>(sum));
}

__global__ void holdUntil(volatile uint32_t *released, uint32_t value) {
  while (*released < value)
    __nanosleep(200);
}

constexpr uint32_t gridBlocks = 528;
constexpr uint32_t blockThreads = 256;
constexpr uint64_t deadlineNs = 10'000'000'000;

uint32_t chunksOf(uint64_t bytes, uint32_t sliceBytes) {
  return static_cast<uint32_t>((bytes + sliceBytes - 1) / sliceBytes);
}

} // namespace

void fillRows(void *rows, uint64_t bytes, uint64_t seed, cudaStream_t stream) {
  fill<<<gridBlocks, blockThreads, 0, stream>>>(static_cast<uint32_t *>(rows),
                                                bytes / 4, seed);
}

void fillWeights(float *weights, uint64_t count, uint64_t seed,
                 cudaStream_t stream) {
  fillFloats<<<gridBlocks, blockThreads, 0, stream>>>(weights, count, seed);
}

void hashBytes(const void *memory, uint64_t bytes, unsigned long long *hash,
               cudaStream_t stream) {
  addHash<<<gridBlocks, blockThreads, 0, stream>>>(
      static_cast<const uint64_t *>(memory), bytes / 8, hash);
}

void hold(volatile uint32_t *released, uint32_t value, cudaStream_t stream) {
  holdUntil<<<1, 1, 0, stream>>>(released, value);
}

template <class T> T *Rank::alloc(uint64_t bytes) {
  // Handles of memory name whole blocks of 2 MiB: no two buffers share one.
  constexpr uint64_t block = 2 << 20;
  void *memory = nullptr;
  must(cudaMalloc(&memory, bytes / block * block + block), "allocating memory");
  allocated_.push_back(memory);
  return static_cast<T *>(memory);
}

Rank::Rank(Meeting &meeting, const Workload &workload, uint32_t self)
    : meeting_(meeting), workload_(workload), self_(self) {
  must(cudaSetDevice(static_cast<int>(self)), "choosing a GPU");
  for (uint32_t peer = 0; !meeting.isProcesses && peer < meeting.ranks;
       peer++) {
    if (peer == self)
      continue;
    const cudaError_t error =
        cudaDeviceEnablePeerAccess(static_cast<int>(peer), 0);
    if (error != cudaErrorPeerAccessAlreadyEnabled)
      must(error, "enabling peer access");
    (void)cudaGetLastError();
  }
  must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
       "creating a stream");
  uint32_t landingRows = 0;
  const std::vector<uint8_t> bytes = workload.tables(self, landingRows);
  const uint64_t entries = uint64_t{workload.tokens} * topk;
  const uint64_t received = workload.received[self];

  auto *tables = alloc<uint8_t>(bytes.size());
  auto *places = alloc<Place>(entries * sizeof(Place));
  auto *head = alloc<cuda::DevicePlanHead>(sizeof(cuda::DevicePlanHead));
  must(cudaMemcpy(tables, bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
       "copying tables");
  must(cudaMemcpy(places, workload.places[self].data(), entries * sizeof(Place),
                  cudaMemcpyHostToDevice),
       "copying places");
  must(cudaMemset(head, 0, sizeof(cuda::DevicePlanHead)), "clearing a head");
  tables_ = workload.layout().tables(tables, places, workload.remoteTokens());
  plan_ = {head, places, nullptr, nullptr};

  rows_ = alloc<uint8_t>(workload.tokens * rowBytes);
  experts_ = alloc<uint8_t>(received * rowBytes);
  weights_ = alloc<float>(entries * sizeof(float));
  combined_ = alloc<uint8_t>(workload.tokens * rowBytes);
  hash_ = alloc<unsigned long long>(sizeof *hash_);
  signals_ = alloc<cuda::DeviceSignals>(sizeof(cuda::DeviceSignals));
  must(cudaMemset(signals_, 0, sizeof(cuda::DeviceSignals)),
       "clearing signals");
  must(cudaMallocHost(reinterpret_cast<void **>(&failure_), sizeof *failure_),
       "allocating a record of failures");
  *failure_ = {};
  fillRows(rows_, workload.tokens * rowBytes, self * 1000 + 1, stream_);
  fillRows(experts_, received * rowBytes, self * 1000 + 2, stream_);
  fillWeights(weights_, entries, self * 1000 + 3, stream_);

  // Chunks of one token and slices of 1536 bytes need the most flags; a combine
  // gradient has two flags of a chunk.
  const uint64_t flags = uint64_t{workload.ranks} * (workload.tokens + 1) *
                         chunksOf(rowBytes, 1536);
  const uint64_t pushed = entries * workload.ranks;
  const uint64_t sizes[sharedBuffers] = {
      sizeof(cuda::DeviceSignals),   flags * sizeof(uint32_t),
      2 * pushed * sizeof(uint64_t), landingRows * rowBytes,
      received * rowBytes,           received * scaleBytes,
      entries * sizeof(float),
  };
  void *own[sharedBuffers];
  for (uint32_t b = 0; b < sharedBuffers; b++) {
    own[b] = b == inboxBuffer ? static_cast<void *>(signals_)
                              : alloc<uint8_t>(sizes[b]);
    if (b == flagsBuffer || b == pushedBuffer)
      must(cudaMemset(own[b], 0, sizes[b]), "clearing flags");
  }
  for (const SharedBuffer b : {rowsBuffer, scalesBuffer, weightGradientBuffer})
    outputs_.emplace_back(own[b], sizes[b]);
  outputs_.emplace_back(combined_, workload.tokens * rowBytes);
  must(cudaDeviceSynchronize(), "filling memory");
  shareBuffers(meeting, self, own);
}

Rank::~Rank() {
  cudaStreamSynchronize(stream_);
  unshareBuffers(meeting_, self_);
  for (void *memory : allocated_)
    cudaFree(memory);
  cudaFreeHost(failure_);
  cudaStreamDestroy(stream_);
}

OnePassCommon Rank::common(const Shape &shape) const {
  OnePassCommon common{};
  common.plan = tables_;
  common.control = &signals_->control;
  common.failure = failure_;
  common.deadlineNs = deadlineNs;
  common.digest = 1;
  common.device = self_;
  common.devices = workload_.ranks;
  common.chunkTokens = shape.chunkTokens;
  common.hasProcesses = meeting_.isProcesses ? 1 : 0;
  for (uint32_t rank = 0; rank < workload_.ranks; rank++) {
    common.inbox[rank] = &at<cuda::DeviceSignals>(rank, inboxBuffer)->inbox;
    common.flags[rank] = at<uint32_t>(rank, flagsBuffer);
  }
  return common;
}

cuda::ToldAddresses
Rank::told(std::initializer_list<SharedBuffer> buffers) const {
  cuda::ToldAddresses told{};
  for (uint32_t peer = 0; peer < workload_.ranks; peer++) {
    uint32_t index = 0;
    for (const SharedBuffer buffer : buffers) {
      told.of[peer][index++] =
          reinterpret_cast<uint64_t>(meeting_.mapped[self_][peer][buffer]);
    }
  }
  return told;
}

MoveParams Rank::move(const Shape &shape, bool isFp8) const {
  MoveParams params{};
  params.common = common(shape);
  params.told = told({rowsBuffer, scalesBuffer});
  params.dispatch.plan = plan_;
  params.dispatch.payloads = params.dispatch.leading = isFp8 ? 2 : 1;
  params.lag = shape.lagTokens / shape.chunkTokens;
  for (uint32_t i = 0; i < params.dispatch.payloads; i++) {
    Payload &payload = params.dispatch.payload[i];
    payload.rowBytes = i == 1 ? scaleBytes : isFp8 ? codeBytes : rowBytes;
    payload.unit = 16;
    // The rows of scales are some of the bytes of the rows.
    payload.from[self_] = rows_;
    for (uint32_t rank = 0; rank < workload_.ranks; rank++) {
      payload.to[rank] = at<uint8_t>(rank, i == 1 ? scalesBuffer : rowsBuffer);
    }
    params.sliceStart[i] = params.slices;
    params.slices += chunksOf(payload.rowBytes, cuda::moveSliceBytes);
  }
  params.sliceStart[params.dispatch.payloads] = params.slices;
  return params;
}

SumParams Rank::sum(const SumVariant &variant, const Shape &shape) const {
  SumParams params{};
  params.common = common(shape);
  params.rowBytes = rowBytes;
  params.slices = (hidden + variant.sliceElements - 1) / variant.sliceElements;
  params.senders = shape.senders;
  params.isWeighted = 1;
  params.addsOwnFirst = cuda::mayAddOwnFirst(1, topk);
  params.from[self_] = experts_;
  params.to[self_] = combined_;
  params.weights[self_] = weights_;
  params.pushedEntries = uint64_t{workload_.tokens} * topk * workload_.ranks;
  for (uint32_t rank = 0; rank < workload_.ranks; rank++) {
    params.landing[rank] = at<uint8_t>(rank, landingBuffer);
    params.pushed[rank] = at<uint64_t>(rank, pushedBuffer);
  }
  return params;
}

CombineGradientParams Rank::gradient(const Shape &shape) const {
  CombineGradientParams params{};
  params.common = common(shape);
  params.told = told({rowsBuffer, weightGradientBuffer});
  params.dispatch.plan = plan_;
  params.dispatch.payloads = params.dispatch.leading = 1;
  params.dispatch.scale[self_] = weights_;
  Payload &payload = params.dispatch.payload[0];
  payload.rowBytes = rowBytes;
  payload.dtype = FUSCO_DTYPE_BF16;
  payload.unit = 16;
  payload.from[self_] = rows_;
  params.rows[self_] = experts_;
  params.pushedEntries = uint64_t{workload_.tokens} * topk * workload_.ranks;
  params.lag = shape.lagTokens / shape.chunkTokens;
  for (uint32_t rank = 0; rank < workload_.ranks; rank++) {
    payload.to[rank] = at<uint8_t>(rank, rowsBuffer);
    params.weightsGradient[rank] = at<float>(rank, weightGradientBuffer);
    params.pushed[rank] = at<uint64_t>(rank, pushedBuffer);
  }
  return params;
}

void Rank::poison() {
  for (const auto &[memory, bytes] : outputs_)
    must(cudaMemsetAsync(memory, 0xee, bytes, stream_), "poisoning");
  must(cudaStreamSynchronize(stream_), "poisoning");
}

uint64_t Rank::hash() {
  unsigned long long hash = 0;
  must(cudaMemsetAsync(hash_, 0, sizeof hash, stream_), "hashing");
  for (const auto &[memory, bytes] : outputs_)
    hashBytes(memory, bytes, hash_, stream_);
  must(cudaMemcpyAsync(&hash, hash_, sizeof hash, cudaMemcpyDeviceToHost,
                       stream_),
       "hashing");
  must(cudaStreamSynchronize(stream_), "hashing");
  if (failure_->code != 0) {
    std::fprintf(
        stderr,
        "rank %u: a wait failed with code %u in epoch %u, late: %#llx\n", self_,
        failure_->code, failure_->epoch,
        static_cast<unsigned long long>(failure_->culprits.bits));
    std::_Exit(1);
  }
  return hash;
}

} // namespace fusco::variants
