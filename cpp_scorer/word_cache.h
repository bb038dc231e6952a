#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

/// The ids of words that were met lately: most of a text is made of few words. Half a megabyte, so that it stays in a
/// processor's own cache; a word overwrites another that has its place.
class WordCache {
 public:
  WordCache();

  /// Appends the word's ids. Whether they are known.
  bool append(std::string_view word, std::vector<int64_t>& ids) const;

  /// Keeps the ids of a word from `first` on, unless they or the word are long.
  void store(std::string_view word, const std::vector<int64_t>& ids, size_t first);

 private:
  static constexpr size_t kWords = 8192, kLongestWord = 22, kMostIds = 10;

  struct alignas(64) Entry {
    uint8_t size = 0, count = 0;
    char word[kLongestWord];
    uint32_t ids[kMostIds];
  };
  static_assert(sizeof(Entry) == 64, "one line of the processor's cache");

  static size_t place(std::string_view word);

  std::vector<Entry> entries_;
};
