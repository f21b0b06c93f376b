#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace tangram {

/// Words that were encoded, with their ids. A word has one place, a line of the processor's cache, and a later word
/// takes it over: the size is fixed, and what comes again soon is found. Longer words, and those of more ids, are not
/// kept. For one thread.
class WordCache {
 public:
  static constexpr size_t kWordBytes = 30, kIds = 8;

  /// Of at least `words` places, 64 bytes each.
  explicit WordCache(size_t words) : places_(std::bit_ceil(std::max<size_t>(words, 2))) {}

  /// The ids of `word`, until the next call of `put`; nothing if it is not kept.
  std::optional<std::span<const int32_t>> find(std::string_view word) const {
    if (word.size() > kWordBytes) return {};
    const Place& place = places_[place_of(word)];
    if (place.bytes != word.size() || std::memcmp(place.text.data(), word.data(), word.size()) != 0) return {};
    return std::span(place.ids).first(place.count);
  }

  void put(std::string_view word, std::span<const int32_t> ids) {
    if (word.empty() || word.size() > kWordBytes || ids.size() > kIds) return;
    Place& place = places_[place_of(word)];
    std::copy(word.begin(), word.end(), place.text.begin());
    std::copy(ids.begin(), ids.end(), place.ids.begin());
    place.bytes = uint8_t(word.size()), place.count = uint8_t(ids.size());
  }

 private:
  struct alignas(64) Place {
    std::array<int32_t, kIds> ids;
    std::array<char, kWordBytes> text;
    uint8_t bytes = 0;  // 0: no word
    uint8_t count = 0;
  };
  static_assert(sizeof(Place) == 64);

  // Eight bytes at a time, the last ones together with some that were there before.
  size_t place_of(std::string_view word) const {
    constexpr uint64_t kFactor = 0x9E3779B97F4A7C15;
    const char* p = word.data();
    size_t n = word.size();
    uint64_t hash = n;
    const auto mix = [&](uint64_t part) {
      hash = (hash ^ part) * kFactor;
      hash ^= hash >> 32;
    };
    for (; n > 8; p += 8, n -= 8) mix(load<uint64_t>(p));
    if (n >= 4)
      mix(uint64_t(load<uint32_t>(p)) << 32 | load<uint32_t>(p + n - 4));
    else if (n > 0)
      mix(uint64_t(uint8_t(p[0])) << 16 | uint64_t(uint8_t(p[n / 2])) << 8 | uint8_t(p[n - 1]));
    return size_t(hash) & (places_.size() - 1);
  }

  template <class T>
  static T load(const char* p) {
    T value;
    std::memcpy(&value, p, sizeof(T));
    return value;
  }

  std::vector<Place> places_;
};

}  // namespace tangram
