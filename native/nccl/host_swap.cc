#include "host_swap.hpp"

#include <algorithm>
#include <cstring>

#include "failure.hpp"

namespace fusco::nccl {

namespace {

// The bytes of `part` that lie in the piece that starts at `pieceStart`.
Part inPiece(const Part &part, uint64_t pieceStart) {
  const uint64_t begin = std::max(part.begin, pieceStart);
  return {begin, std::max(begin, std::min(part.end, pieceStart + pieceBytes))};
}

}  // namespace

void HostSwap::run(const fusco_nccl_call &call, const void *sent, const std::vector<Part> &parts,
                   const Mailbox::Wait &wait, const Take &take) {
  const auto count = static_cast<uint32_t>(parts.size());
  const auto *bytes = static_cast<const uint8_t *>(sent);
  uint64_t sentBytes = 0;
  for (const Part &part : parts) sentBytes = std::max(sentBytes, part.end);
  if (const Part &own = parts[self_]; own.end > own.begin) {
    std::memcpy(take(self_, own.end - own.begin), bytes + own.begin, own.end - own.begin);
  }
  std::vector<Part> wanted(count);
  std::vector<uint8_t *> to(count, nullptr);
  // As many pieces as the rank with the most bytes needs, and one that says so.
  uint64_t mostBytes = std::max<uint64_t>(sentBytes, 1);
  for (uint64_t start = 0; start < mostBytes; start += pieceBytes) {
    const uint64_t number = ++pieces_;
    Piece &local = mailbox_.piece(self_, number);
    local.call = call.number;
    local.digest = call.digest;
    local.sentBytes = sentBytes;
    std::copy(parts.begin(), parts.end(), local.part);
    if (start < sentBytes) {
      std::memcpy(local.bytes, bytes + start, std::min(pieceBytes, sentBytes - start));
    }
    local.number.store(number, std::memory_order_release);
    for (uint32_t i = 0; i < count; i++) {
      if (i == self_) continue;
      const Piece &piece = mailbox_.piece(i, number);
      wait([&] { return piece.number.load(std::memory_order_acquire) == number; });
      if (start == 0) {
        const Part &part = piece.part[self_];
        if (piece.call != call.number || piece.digest != call.digest || part.begin > part.end ||
            part.end > piece.sentBytes) {
          throw Failure(FUSCO_E_PEER_MISMATCH,
                        "rank %u makes another call than rank %u as call %llu: the digests differ",
                        rankAt_[i], rankAt_[self_], call.number)
              .atRank(rankAt_[i]);
        }
        wanted[i] = part;
        if (part.end > part.begin) to[i] = static_cast<uint8_t *>(take(i, part.end - part.begin));
        mostBytes = std::max(mostBytes, piece.sentBytes);
      }
      const Part here = inPiece(wanted[i], start);
      if (here.end == here.begin) continue;
      std::memcpy(to[i] + (here.begin - wanted[i].begin), piece.bytes + (here.begin - start),
                  here.end - here.begin);
    }
  }
}

}  // namespace fusco::nccl
