#include "unicode.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <tuple>
#include <vector>

#include "utf8.h"

namespace {

struct Range {
  char32_t first, last;
};

struct ClassRange {
  char32_t first, last;
  CharClass value;
};

struct MarkRange {
  char32_t first, last;
  uint8_t rank;
};

/// A decomposition: code point, first, second or 0. A composition: first, second, code point.
using Triple = std::array<char32_t, 3>;

constexpr CharClass U = kUpper, L = kLower, O = kUncased, M = kMark, N = kNumber, D = kDigitOnly, S = kSpace;
#include "unicode_tables.inc"

// Hangul syllables are composed of two or three jamo by arithmetic (The Unicode Standard, section 3.12).
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kFinal = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kFinals = 28, kSyllables = kLeads * kVowels * kFinals;

/// The range that holds `code`, or null.
template <typename Entry, size_t size>
constexpr const Entry* find_range(const Entry (&ranges)[size], char32_t code) {
  size_t low = 0, high = size;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (ranges[middle].last < code) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < size && ranges[low].first <= code ? &ranges[low] : nullptr;
}

constexpr CharClass look_up_class(char32_t code) {
  const ClassRange* const range = find_range(kClasses, code);
  return range ? range->value : kOther;
}

constexpr auto kAsciiClasses = [] {
  std::array<CharClass, 128> classes{};
  for (char32_t code = 0; code < 128; ++code) classes[code] = look_up_class(code);
  return classes;
}();

struct Character {
  char32_t code;
  uint8_t rank;  // of its combining class; 0 for what is no mark
};

void decompose(char32_t code, std::vector<Character>& into) {
  if (code >= kSyllable && code < kSyllable + kSyllables) {
    const char32_t index = code - kSyllable;
    into.push_back({kLead + index / (kVowels * kFinals), 0});
    into.push_back({kVowel + index / kFinals % kVowels, 0});
    if (index % kFinals != 0) into.push_back({kFinal + index % kFinals, 0});
    return;
  }
  const auto found = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), Triple{code, 0, 0});
  if (found != std::end(kDecompositions) && (*found)[0] == code) {
    decompose((*found)[1], into);
    if ((*found)[2] != 0) decompose((*found)[2], into);
    return;
  }
  const MarkRange* const mark = find_range(kMarks, code);
  into.push_back({code, mark ? mark->rank : uint8_t{0}});
}

/// What the two make together, or 0.
char32_t compose(char32_t first, char32_t second) {
  if (first >= kLead && first < kLead + kLeads && second >= kVowel && second < kVowel + kVowels) {
    return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kFinals;
  }
  if (first >= kSyllable && first < kSyllable + kSyllables && (first - kSyllable) % kFinals == 0 && second > kFinal &&
      second < kFinal + kFinals) {
    return first + (second - kFinal);
  }
  const auto found = std::lower_bound(std::begin(kCompositions), std::end(kCompositions), Triple{first, second, 0});
  const bool pair = found != std::end(kCompositions) && (*found)[0] == first && (*found)[1] == second;
  return pair ? (*found)[2] : 0;
}

/// Puts the marks of every run in the order of their classes; equal ones stay in the order they stood.
void order_marks(std::vector<Character>& text) {
  const auto is_mark = [](const Character& character) { return character.rank != 0; };
  for (auto begin = text.begin(); (begin = std::find_if(begin, text.end(), is_mark)) != text.end();) {
    const auto end = std::find_if_not(begin, text.end(), is_mark);
    std::stable_sort(begin, end, [](const Character& a, const Character& b) { return a.rank < b.rank; });
    begin = end;
  }
}

/// Joins each character to the last one that is no mark, where they compose and no kept mark between blocks it.
void compose_all(std::vector<Character>& text) {
  size_t kept = 0;
  Character* base = nullptr;
  int last_rank = -1;  // of the last kept mark since the base; -1 where nothing is between
  for (const Character character : text) {
    if (base && last_rank < character.rank) {
      if (const char32_t composed = compose(base->code, character.code)) {
        base->code = composed;
        continue;
      }
    }
    text[kept] = character;
    if (character.rank == 0) {
      base = &text[kept];
      last_rank = -1;
    } else {
      last_rank = character.rank;
    }
    ++kept;
  }
  text.resize(kept);
}

}  // namespace

CharClass char_class(char32_t code) { return code < 128 ? kAsciiClasses[code] : look_up_class(code); }

bool may_change_under_nfc(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
    } else if (find_range(kUnstable, next_code_point(text, at))) {
      return true;
    }
  }
  return false;
}

std::string to_nfc(std::string_view text) {
  std::vector<Character> characters;
  characters.reserve(text.size());
  for (size_t at = 0; at < text.size();) decompose(next_code_point(text, at), characters);
  order_marks(characters);
  compose_all(characters);
  std::string composed;
  composed.reserve(text.size());
  for (const Character& character : characters) append_utf8(composed, character.code);
  return composed;
}
