#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

/// The characters that stand for the bytes in a byte-level vocabulary: a byte that is visible in Latin-1 for itself,
/// the others for U+0100 and on, in order.
std::array<std::string, 256> byte_alphabet();

/// What a word consists of before any merge.
struct FirstTokens {
  static constexpr uint32_t kLeftOut = UINT32_MAX;  // of a byte that has no token

  std::array<uint32_t, 256> bytes;
  std::unordered_map<char32_t, uint32_t> characters;  // beyond ASCII, where they are not first split into bytes
};

/// Two neighbouring tokens and the one they become.
struct Merge {
  uint32_t left, right, merged;
};

/// Byte-pair encoding: the pair of lowest rank is merged until none is left.
class Bpe {
 public:
  /// What encoding one word after another reuses; one for each thread.
  class Scratch {
    friend class Bpe;
    struct Symbol {
      uint32_t id;
      int32_t previous, next;  // positions, or kNone
    };
    struct Candidate {
      uint32_t rank;
      int32_t position;  // of the left symbol
      uint32_t merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// `merges`: in rank order; of two for one pair the later counts.
  Bpe(FirstTokens first, const std::vector<Merge>& merges);

  /// Appends the ids of a word of less than 2^31 bytes of UTF-8, in O(n log n).
  void encode(std::string_view word, Scratch& scratch, std::vector<int64_t>& ids) const;

 private:
  struct Entry {
    uint32_t left = kEmpty, right = 0, rank = 0, merged = 0;
  };
  static constexpr uint32_t kEmpty = UINT32_MAX;

  void split(std::string_view word, Scratch& scratch) const;
  size_t slot(uint32_t left, uint32_t right) const;
  void offer(int32_t position, Scratch& scratch) const;
  void merge_all(Scratch& scratch) const;

  FirstTokens first_;
  std::vector<Entry> table_;  // by the hash of the pair, with linear probing; the size is a power of two
};
