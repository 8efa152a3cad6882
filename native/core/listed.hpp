// Numbers in messages.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fusco {

// "rank 2", "ranks 1 and 2", "ranks 1, 2 and 3" of the noun "rank"; of more than 16 numbers, how many more.
// `numbers` is not empty.
inline std::string listed(const char *noun, const std::vector<uint32_t> &numbers) {
  constexpr size_t most = 16;
  const size_t count = numbers.size();
  std::string text = std::string(noun) + (count == 1 ? " " : "s ");
  for (size_t i = 0; i < count && i < most; i++) {
    if (i > 0) text += i + 1 == count ? " and " : ", ";
    text += std::to_string(numbers[i]);
  }
  if (count > most) text += " and " + std::to_string(count - most) + " more";
  return text;
}

}  // namespace fusco
